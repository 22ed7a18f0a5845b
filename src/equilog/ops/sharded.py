"""Tensors whose entries are sharded over ranks: DTensor."""

from typing import Any, cast

import torch
from torch import Tensor


def is_sharded(values: Tensor) -> bool:
    """Tell whether the entries of a tensor are sharded over ranks."""
    if type(values) in (Tensor, torch.nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor  # loaded already where there is one, and takes a second where not

    return isinstance(values, DTensor)


def gather_shards(values: Tensor) -> Tensor:
    """Return the whole tensor on every rank, by gathering it where it is sharded over them."""
    return cast(Any, values).full_tensor() if is_sharded(values) else values


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Return values that every rank has in a form that goes with `like`, if that is sharded over ranks."""
    if not is_sharded(like):
        return values
    from torch.distributed.tensor import DTensor, Replicate

    mesh = cast(Any, like).device_mesh
    return DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim, run_check=False)
