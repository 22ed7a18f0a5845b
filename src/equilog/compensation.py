"""What one log per class would do to soft targets, and the numbers that undo it.

At the answer p_i = softmax(log(t_i) / 2) class j's odds sum to R_j = sum_i v_i rho_ij, rho_ij = sqrt(t_ij) (sum_k
sqrt(t_ik) - sqrt(t_ij)). The log divides each class's gradient by 1 + R_j; where the R_j differ, so do the divisors,
and the gradients that cancelled pair by pair no longer do. Weights 1 + R_j, or offsets that bring every R_j to the
largest, make the divisors equal again. Index targets have R = 0.
"""

from torch import Tensor

from equilog.pooling import Pools
from equilog.targets import Sets


def odds_at_optimum(sets: Sets, pools: Pools) -> Tensor:
    """Return R (P, C), the odds against each class that are left at the best possible scores; no gradient."""
    assert sets.probs is not None
    root = sets.probs.detach().sqrt()
    rho = root * (root.sum(1, keepdim=True) - root)
    weighted = rho * sets.log_weight.detach().exp()[:, None]
    return pools.sums(weighted)
