"""Multi-label logits, targets and weights of any accepted shape -> n yes/no labels in one form, checked once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.kernels import log_side_sums
from equilog.odds import weighted_log
from equilog.pooling import Pools, as_pools
from equilog.targets import as_compute_dtype, compute_dtype, known, per_set


@dataclass(frozen=True)
class Labels:
    """n labels, each a choice between yes and no.

    Held as the caller gave them: at this size a copy costs as much as the loss.
    """

    given_logits: Tensor
    """(n,) of any floating type."""
    given_target: Tensor
    """(n,) in [0, 1], of any type."""
    weight: Tensor | None
    """(n,) in the dtype of `logits`, 0 where the label is left out; None where all weights are 1."""
    shape: torch.Size
    """The shape of the caller's labels: (N, L) or longer, or (L,) for one sample."""

    each = 1
    """Labels that each of the pools' sets is."""

    @property
    def logits(self) -> Tensor:
        """(n,) in float32, or float64 where the caller's are; 0 where the label is left out."""
        return self._shown(as_compute_dtype(self.given_logits))

    @property
    def target(self) -> Tensor:
        """(n,) in the dtype of `logits`; 0 where the label is left out."""
        return self._shown(self.given_target.to(compute_dtype(self.given_logits)))

    @property
    def weights(self) -> Tensor:
        """(n,) in the dtype of `logits`."""
        if self.weight is not None:
            return self.weight
        return torch.ones_like(self.given_logits, dtype=compute_dtype(self.given_logits))

    @property
    def kept(self) -> Tensor | None:
        """(n,) bool: the label is not left out; None where none is."""
        return None if self.weight is None else self.weight != 0

    def log_threats(self, scale: float) -> tuple[Tensor, Tensor]:
        """Return the logs of t exp(-scale x), the threat to the positives, and of (1 - t) exp(scale x), each (n,)."""
        x, target = scale * self.logits, self.target
        return weighted_log(-x, target), weighted_log(x, 1.0 - target)

    def log_sums(self, pools: Pools, scale: float) -> Tensor:
        """Return the logs of the summed threats to each pool's positives and negatives, (P, 2)."""
        return log_side_sums(self.given_logits, self.given_target, self.weight, pools, scale)

    def pools(self, where: str, pool: str | int | Tensor | None) -> Pools:
        """Return the pools a `pool` argument names. Labels (L,) are one sample, where sets (N,) would be N."""
        alone = len(self.shape) == 1 and isinstance(pool, str) and pool == "sample"
        return as_pools(where, "batch" if alone else pool, self.shape, self.given_logits.device)

    def side_count(self) -> Tensor:
        """Return the weighted number of positives and of negatives (2,); no gradient."""
        weight, target = self.weights.detach(), self.target.detach()
        return torch.stack(((weight * target).sum(), (weight * (1.0 - target)).sum()))

    def dense(self) -> "Labels":
        """Return these labels: they have a target each."""
        return self

    def _shown(self, values: Tensor) -> Tensor:
        return values if self.weight is None else torch.where(self.weight == 0, 0.0, values)


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
    check_mask(where, mask)
    factors = [
        _broadcast(where, name, values, shape)
        for name, values in (("weight", weight), ("mask", mask))
        if values is not None
    ]
    if sample_weight is not None:
        factors.append(per_set(where, "sample_weight", sample_weight, shape))
    labels = Labels(
        logits.reshape(-1), target.reshape(-1), product_of(factors, compute_dtype(logits)) if factors else None, shape
    )
    if validate:
        _check_values(where, labels)
    elif not target.is_floating_point() and target.dtype != torch.bool and target.numel():
        _check_integers(where, labels)
    return labels


def check_mask(where: str, mask: Tensor | None) -> None:
    """Raise TypeError unless the mask is a bool tensor or None."""
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{where}: mask must be a bool tensor, True for the labels that take part; got {found}.")


def product_of(factors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the product of factors: 0 wherever one is 0, with gradient 0, and NaN where one is negative."""
    if len(factors) == 1 and factors[0].dtype == torch.bool:
        return factors[0].to(dtype)
    kept, product = factors[0] != 0, _not_negative(factors[0], dtype)
    for factor in factors[1:]:
        kept, product = kept & (factor != 0), product * _not_negative(factor, dtype)
    return torch.where(kept, product, 0.0)


def _not_negative(factor: Tensor, dtype: torch.dtype) -> Tensor:
    return factor.to(dtype) if factor.dtype == torch.bool else torch.where(factor < 0, torch.nan, factor.to(dtype))


def _broadcast(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor; got {type(values).__name__}. Wrap it in torch.as_tensor.")
    try:
        return values.expand(shape).reshape(-1)
    except RuntimeError:
        raise ValueError(
            f"{where}: {name} must broadcast to the logits' shape {tuple(shape)}; got {tuple(values.shape)}."
        ) from None


def _check_integers(where: str, labels: Labels) -> None:
    """Integer targets that are class indices by mistake would pass as impossible probabilities."""
    target = labels.given_target if labels.weight is None else labels.target
    least, most = torch.aminmax(target)
    if known((least < 0) | (most > 1)):
        raise ValueError(f"{where}: integer targets must be 0 or 1, one for each label; got other values.")


def _check_values(where: str, labels: Labels) -> None:
    target = labels.target
    if known(((target >= 0) & (target <= 1)).all(), True) is False:
        raise ValueError(f"{where}: target must lie in [0, 1] and not be NaN.")
    if labels.weight is not None and known(labels.weight.isnan().any(), True):
        raise ValueError(f"{where}: weight and sample_weight must not be negative or NaN.")
    if known(labels.logits.isnan().any(), True):
        raise ValueError(f"{where}: logits hold NaN.")
