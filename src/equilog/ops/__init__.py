"""Operations on plain tensors: the leaves that every loss is made of. Nothing here knows what lies above.

Each operation is a folder with a file for each way of computing it; its `__init__` says what it means and which call
goes which way (`equilog.ops.dispatch`).
"""

from equilog.ops.dispatch import is_transformed
from equilog.ops.dtypes import as_compute_dtype, compute_dtype, precise
from equilog.ops.index_logs import (
    Look,
    NotPlainError,
    mean_of_index_logs,
    pooled_index_logs,
    takes_ignored,
    takes_index_logs,
    takes_look,
)
from equilog.ops.index_odds import index_log_odds
from equilog.ops.label_logs import pooled_label_logs, takes_label_logs
from equilog.ops.label_sums import (
    PADDING,
    indexed_label_log_sums,
    pooled_label_log_sums,
    sorted_positives,
)
from equilog.ops.label_terms import (
    LabelSums,
    as_two_classes,
    in_order,
    pooled_label_residual,
    pooled_label_terms,
    reads_in_place,
)
from equilog.ops.logspace import least_with_log, log_expm1, log_of_sum, log_one_plus, log_sum_exp, usable_peak
from equilog.ops.pair_sums import block_log_terms, pair_log_terms, pooled_pair_log_sums
from equilog.ops.scores import scores_of
from equilog.ops.sharded import beside, gather_shards, is_sharded
from equilog.ops.soft_odds import (
    TERMS,
    class_log_odds,
    log_of_gap,
    log_of_nll,
    log_weighted,
    pooled_class_log_odds,
    pooled_sums,
    takes_class_log_odds,
    target_probs,
)
from equilog.ops.sum_by_id import finds_first, log_sum_exp_at_first, log_sum_exp_by
from equilog.ops.units import Units, logs_held, mean_of

__all__ = [
    "PADDING",
    "TERMS",
    "LabelSums",
    "Look",
    "NotPlainError",
    "Units",
    "as_compute_dtype",
    "as_two_classes",
    "beside",
    "block_log_terms",
    "class_log_odds",
    "compute_dtype",
    "finds_first",
    "gather_shards",
    "in_order",
    "index_log_odds",
    "indexed_label_log_sums",
    "is_sharded",
    "is_transformed",
    "least_with_log",
    "log_expm1",
    "log_of_gap",
    "log_of_nll",
    "log_of_sum",
    "log_one_plus",
    "log_sum_exp",
    "log_sum_exp_at_first",
    "log_sum_exp_by",
    "log_weighted",
    "logs_held",
    "mean_of",
    "mean_of_index_logs",
    "pair_log_terms",
    "pooled_class_log_odds",
    "pooled_index_logs",
    "pooled_label_log_sums",
    "pooled_label_logs",
    "pooled_label_residual",
    "pooled_label_terms",
    "pooled_pair_log_sums",
    "pooled_sums",
    "precise",
    "reads_in_place",
    "scores_of",
    "sorted_positives",
    "takes_class_log_odds",
    "takes_ignored",
    "takes_index_logs",
    "takes_label_logs",
    "takes_look",
    "target_probs",
    "usable_peak",
]
