"""What a call of any loss adds to a loss over several micro-batches, ranks or steps."""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from equilog.core.pool_state import ClassMass
from equilog.inputs.options import CLASS_MASS
from equilog.losses.from_cross_entropy import log_balanced_from_cross_entropy
from equilog.losses.linear import linear_log_balanced_cross_entropy
from equilog.losses.linear_multilabel import linear_multilabel_cross_entropy
from equilog.losses.multiclass import log_balanced_cross_entropy
from equilog.losses.multilabel import multilabel_cross_entropy


@torch.no_grad()
def class_mass(*inputs: Any, loss: Callable[..., Tensor] = log_balanced_cross_entropy, **options: Any) -> ClassMass:
    r"""What a call of a loss adds to a loss over several micro-batches, ranks or steps.

    Sum over the sets of each class's odds against it, $\sum_i v_i t_{ij} (1/p_{ij} - 1)$, as logarithms, with whatever
    else the parts must know of each other. Merge the masses of all parts, then give the whole to the loss of each part:
    its value is then that of the whole, its gradient the part's share, and the shares add up to the gradient of one
    large batch exactly.

    Args:
        *inputs: what the loss is called with, such as logits and target.
        loss: any loss function of equilog.
        **options: the loss's, the same as in its own call. With a pool that does not span the call ("sample", a number,
            ids) the pools are the parts' own and only the units of the mean are shared.

    Returns:
        A `ClassMass`, without gradient.

    Raises:
        TypeError, ValueError: as the loss.

    Example:
        >>> from equilog import log_balanced_cross_entropy
        >>> logits, target = torch.randn(8, 3, generator=torch.manual_seed(0)), torch.arange(8) % 3
        >>> whole = class_mass(logits[:5], target[:5]).merge(class_mass(logits[5:], target[5:]))
        >>> torch.allclose(whole.log_mass, class_mass(logits, target).log_mass)
        True
        >>> part = log_balanced_cross_entropy(logits[:5], target[:5], class_mass=whole)
        >>> torch.allclose(part, log_balanced_cross_entropy(logits, target))
        True
        >>> from equilog import multilabel_cross_entropy
        >>> labels = torch.tensor([[1, 0, 0], [0, 0, 0]])
        >>> class_mass(torch.zeros(2, 3), labels, loss=multilabel_cross_entropy, pool="batch").log_mass.exp()
        tensor([2., 6.])
    """
    return cast(ClassMass, loss(*inputs, **options | {"reduction": CLASS_MASS}))


# The names of one function a loss, from before it was one for all.
class_mass_from_cross_entropy = functools.partial(class_mass, loss=log_balanced_from_cross_entropy)
linear_class_mass = functools.partial(class_mass, loss=linear_log_balanced_cross_entropy)
linear_multilabel_class_mass = functools.partial(class_mass, loss=linear_multilabel_cross_entropy)
multilabel_class_mass = functools.partial(class_mass, loss=multilabel_cross_entropy)
