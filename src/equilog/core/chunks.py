"""A linear layer's logits a chunk of rows at a time, so that they are never there together.

The rows of a class (in its pool) meet in one sum, and their gradients divide by it. So rows are taken in the order of
their classes: where a class lies within a chunk, its sum and its gradients are formed while the logits are there.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.ops import as_compute_dtype


@dataclass(frozen=True)
class Chunks:
    """Row numbers by group, cut so that no group which fits into a chunk lies in two."""

    all: tuple[Tensor, ...]
    """Every row."""
    open: tuple[Tensor, ...]
    """The rows of groups that are larger than a chunk."""


def as_chunks(rows: Tensor, groups: Tensor, size: int) -> Chunks:
    """Return chunks of at most `size` of the rows (k,), each of one of the groups (k,), numbered from 0."""
    groups, order = groups.sort(stable=True)
    rows = rows[order]
    count = groups.bincount()
    large = (count > size)[groups]
    begins, divisible = (count.cumsum(0) - count)[groups].tolist(), large.tolist()
    lengths, begin = [], 0
    while begin < len(begins):
        end = min(begin + size, len(begins))
        if end < len(begins) and not divisible[end]:
            end = begins[end]
        lengths.append(end - begin)
        begin = end
    open_rows = rows[large]
    return Chunks(torch.split(rows, lengths), torch.split(open_rows, size) if len(open_rows) else ())


@dataclass(frozen=True)
class Head:
    """Logits scale (hidden weight^T + bias), a chunk at a time, and what the loss takes from them."""

    hidden: Tensor
    """(n, D)"""
    weight: Tensor
    """(C, D) in the dtype of hidden."""
    bias: Tensor | None
    """(C,), or (n,) where `shifts_rows`, in the type to compute in, which is not that of a half-precision hidden."""
    scale: float
    from_logits: Callable[[Tensor, Tensor], Tensor]
    """(logits (k, C), row numbers (k,)) -> log terms (k, ...), the logs that meet in the pools."""
    shifts_rows: bool = False
    """Whether the bias is one of each row, and not of each column."""
    takes_products: bool = False
    """Whether `from_logits` adds the bias and scales by itself, to hidden weight^T in the dtype of that."""

    def log_terms(self, rows: Tensor) -> Tensor:
        """Return the log terms (k, ...) of some rows (k,)."""
        return self.from_logits(self._logits(rows, self.hidden[rows]), rows)

    def gradients(
        self, chunks: Iterable[Tensor], slope: Callable[[Tensor, Tensor], Tensor], needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of a loss with respect to hidden, weight and bias, where they are needed.

        slope: row numbers (k,) and their log terms (k, ...) -> the loss's gradient with respect to these.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)  # a small dtype would lose what later chunks add
        hidden = torch.zeros_like(self.hidden) if needed[0] else None
        weight = torch.zeros_like(self.weight, dtype=wide) if needed[1] else None
        shifted = self.hidden if self.shifts_rows else self.weight
        bias = self.weight.new_zeros(len(shifted), dtype=wide) if needed[2] else None
        for rows in chunks:
            inputs = self.hidden[rows]
            gradient = self._gradient(rows, inputs, slope)
            if bias is not None and self.shifts_rows:
                bias[rows] = gradient.sum(1, dtype=wide)
            elif bias is not None:
                bias += gradient.sum(0, dtype=wide)
            gradient = gradient.to(inputs.dtype)
            if hidden is not None:
                hidden[rows] = gradient @ self.weight
            if weight is not None:
                add_product(weight, gradient.T, inputs)
            del gradient  # before the next chunk's logits are made
        return hidden, weight, bias

    def _gradient(self, rows: Tensor, inputs: Tensor, slope: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the gradient (k, C) of a chunk with respect to hidden weight^T."""
        logits = self._logits(rows, inputs).requires_grad_()
        with torch.enable_grad():
            log_terms = self.from_logits(logits, rows)
        slopes = slope(rows, log_terms.detach())
        (gradient,) = torch.autograd.grad(log_terms, logits, slopes if self.takes_products else self.scale * slopes)
        return gradient

    def _logits(self, rows: Tensor, inputs: Tensor) -> Tensor:
        logits = inputs @ self.weight.T
        if self.takes_products or (self.bias is None and self.scale == 1.0):
            return logits
        logits = as_compute_dtype(logits)
        if self.bias is not None:
            logits += self.bias[rows, None] if self.shifts_rows else self.bias
        return logits.mul_(self.scale)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices, which may be of a smaller dtype than the total; in place where torch can."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif _adds_products_of(left.dtype, left.device):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


@functools.cache
def _adds_products_of(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether torch adds a product of a small dtype to a float32 matrix on a device, by trying it once."""
    if device.type != "cuda":
        return False
    total, ones = torch.ones(16, 16, device=device), torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except RuntimeError:  # a torch or a device without such a product
        return False
    return bool((total == 17.0).all())
