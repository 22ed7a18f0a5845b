"""What one log per class would do to soft targets, and the numbers that undo it.

At the answer class j's terms add up to R_j: for odds, where p_i = softmax(log(t_i) / 2), to sum_i v_i sqrt(t_ij) (sum_k
sqrt(t_ik) - sqrt(t_ij)). The log divides each class's gradient by 1 + R_j; where the R_j differ so do the divisors, and
the gradients that cancelled within a set no longer do. Weights 1 + R_j, or offsets that bring every R_j to the largest,
make the divisors equal again. Index targets have R = 0.
"""

from torch import Tensor

from equilog.inner import Inner
from equilog.kernels import weighted_sums
from equilog.pooling import Pools
from equilog.targets import Sets


def left_at_optimum(sets: Sets, pools: Pools, inner: Inner) -> Tensor | None:
    """Return R (P, C), what is left of each class's terms at the best possible scores; no gradient.

    None where nothing is: for index targets, and for an inner term that is zero there.
    """
    if sets.probs is None or inner.separate:
        return None
    return weighted_sums(inner.at_optimum, sets.probs, sets.log_weight, pools)
