"""Multi-label logits, targets and weights of any accepted shape -> n yes/no labels in one form, checked once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.odds import weighted_log
from equilog.pooling import Pools, as_pools
from equilog.targets import as_compute_dtype, known, per_set


@dataclass(frozen=True)
class Labels:
    """n labels, each a choice between yes and no. Labels left out have logit 0 and weight 0."""

    logits: Tensor
    """(n,) in float32, or float64 where the caller's are."""
    target: Tensor
    """(n,) in [0, 1], in the dtype of the logits."""
    log_weight: Tensor
    """(n,) log of the weight, minus infinity where the label is left out."""
    kept: Tensor
    """(n,) bool: the label is not left out."""
    shape: torch.Size
    """The shape of the caller's labels: (N, L) or longer, or (L,) for one sample."""

    def log_threats(self, scale: float) -> tuple[Tensor, Tensor]:
        """Return the logs of v t exp(-scale x), the threat to the positives, and of v (1 - t) exp(scale x), each (n,).

        Two tensors, since summing the columns of one (n, 2) takes several times as long.
        """
        x = scale * self.logits
        return (
            self.log_weight + weighted_log(-x, self.target),
            self.log_weight + weighted_log(x, 1.0 - self.target),
        )

    def log_sums(self, pools: Pools, scale: float) -> Tensor:
        """Return the logs of the summed threats to each pool's positives and negatives, (P, 2)."""
        sides = [pools.log_sums(side[:, None]).flatten(1) for side in self.log_threats(scale)]
        return torch.cat(sides, 1)

    def pools(self, where: str, pool: str | int | Tensor | None) -> Pools:
        """Return the pools a `pool` argument names. Labels (L,) are one sample, where sets (N,) would be N."""
        alone = len(self.shape) == 1 and isinstance(pool, str) and pool == "sample"
        return as_pools(where, "batch" if alone else pool, self.shape, self.logits.device)

    def side_count(self) -> Tensor:
        """Return the weighted number of positives and of negatives (2,); no gradient."""
        weight, target = self.log_weight.detach().exp(), self.target.detach()
        return torch.stack(((weight * target).sum(), (weight * (1.0 - target)).sum()))


def as_labels(
    where: str,
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    validate: bool,
) -> Labels:
    """Return the labels of logits and target of one shape, (N, L), longer, or (L,) for one sample."""
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        found = f"{type(logits).__name__} and {type(target).__name__}"
        raise TypeError(f"{where}: logits and target must be tensors; got {found}. Wrap them in torch.as_tensor.")
    if not logits.is_floating_point():
        raise TypeError(f"{where}: logits must be floating point, not {logits.dtype}; call logits.float().")
    if logits.dim() == 0 or target.shape != logits.shape:
        raise ValueError(
            f"{where}: target must have the shape of logits, {tuple(logits.shape)}, one value in [0, 1] a label; "
            f"got {tuple(target.shape)}."
        )
    shape = logits.shape
    x = as_compute_dtype(logits.reshape(-1))
    t = target.reshape(-1).to(x.dtype)

    kept = torch.ones_like(x, dtype=torch.bool)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{where}: mask must be a bool tensor, True for the labels that take part; got {found}.")
        kept = _broadcast(where, "mask", mask, shape)
    factors = []
    if weight is not None:
        factors.append(_broadcast(where, "weight", weight, shape).to(x.dtype))
    if sample_weight is not None:
        factors.append(per_set(where, "sample_weight", sample_weight, shape).to(x.dtype))
    for factor in factors:
        kept = kept & (factor != 0)
    log_weight = torch.zeros_like(x)
    for factor in factors:
        log_weight = log_weight + torch.where(kept, factor, 1.0).log()
    if mask is not None or factors:
        log_weight = torch.where(kept, log_weight, -torch.inf)
        x = torch.where(kept, x, 0.0)
        t = torch.where(kept, t, 0.0)
    if validate:
        _check_values(where, x, t, log_weight)
    elif not target.is_floating_point() and target.dtype != torch.bool:
        _check_integers(where, t)
    return Labels(x, t, log_weight, kept, shape)


def _broadcast(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor; got {type(values).__name__}. Wrap it in torch.as_tensor.")
    try:
        return values.expand(shape).reshape(-1)
    except RuntimeError:
        raise ValueError(
            f"{where}: {name} must broadcast to the logits' shape {tuple(shape)}; got {tuple(values.shape)}."
        ) from None


def _check_integers(where: str, target: Tensor) -> None:
    """Integer targets that are class indices by mistake would pass as impossible probabilities."""
    if known(((target != 0) & (target != 1)).any()):
        raise ValueError(f"{where}: integer targets must be 0 or 1, one for each label; got other values.")


def _check_values(where: str, x: Tensor, target: Tensor, log_weight: Tensor) -> None:
    if known(((target >= 0) & (target <= 1)).all(), True) is False:
        raise ValueError(f"{where}: target must lie in [0, 1] and not be NaN.")
    if known(log_weight.isnan().any(), True):
        raise ValueError(f"{where}: weight and sample_weight must not be negative or NaN.")
    if known(x.isnan().any(), True):
        raise ValueError(f"{where}: logits hold NaN.")
