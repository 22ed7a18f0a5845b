"""Where training starts: the last layer's bias at the frequencies of the classes, for any loss."""

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from equilog.inputs.options import check_choice
from equilog.inputs.values import as_vector

Layer = TypeVar("Layer", bound=nn.Module)


@torch.no_grad()
def init_bias_(layer: Layer, prior: Any, task: Literal["multiclass", "multilabel"] = "multiclass") -> Layer:
    r"""Set the bias of a model's last layer to what the data say before any input is looked at, in place.

    $\log \pi_j$ for one choice among C classes, $\log q_l - \log(1 - q_l)$ for yes/no labels: the scores at which
    cross-entropy (or binary cross-entropy) of a constant is smallest. From a bias of 0 the first steps are spent on
    getting there, and where one label in a thousand is positive they are most of the training.

    Not for a loss that is told the prior itself (`prior=`): it adds the same to the logits, and both would be too much.

    Args:
        layer: what makes the logits, with a `bias` of C or L numbers, such as `torch.nn.Linear` or `torch.nn.Conv2d`.
        prior: for "multiclass" (C,) class frequencies or counts, all > 0; for "multilabel" (L,) the share of samples
            with each label, in (0, 1), or one number for all. A tensor, an array or a list.
        task: "multiclass" or "multilabel".

    Returns:
        The layer.

    Raises:
        TypeError, ValueError: no bias, or a prior of the wrong shape or range.

    Source:
        Lin et al. 2017, "Focal loss for dense object detection", arXiv 1708.02002, section 3.3, for one label.

    Example:
        >>> head = init_bias_(torch.nn.Linear(8, 3), [90, 9, 1])
        >>> head.bias.softmax(0)
        tensor([0.9000, 0.0900, 0.0100], grad_fn=<SoftmaxBackward0>)
        >>> init_bias_(torch.nn.Linear(8, 2), [0.001, 0.2], task="multilabel").bias.sigmoid()
        tensor([0.0010, 0.2000], grad_fn=<SigmoidBackward0>)
    """
    check_choice("init_bias_", "task", task, ("multiclass", "multilabel"))
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor):
        raise TypeError(
            f"init_bias_: layer must have a bias; {type(layer).__name__} has none. Make it with bias=True, and give "
            f"the layer itself, not the model."
        )
    values = as_vector("init_bias_", "prior", [prior] if isinstance(prior, float) else prior).double()
    if task == "multilabel" and values.numel() == 1:
        values = values.reshape(1).expand(len(bias))
    if values.shape != bias.shape:
        raise ValueError(
            f"init_bias_: prior must be {tuple(bias.shape)}, one value for each output of the layer; got "
            f"{tuple(values.shape)}."
        )
    if task == "multiclass":
        if not bool((values > 0).all() & values.isfinite().all()):
            raise ValueError(
                f"init_bias_: prior must be positive (give a class never seen a small count); got {values.tolist()}."
            )
        start = (values / values.sum()).log()
    else:
        if not bool(((values > 0) & (values < 1)).all()):
            raise ValueError(
                f"init_bias_: prior must be shares between 0 and 1, the counts divided by the number of samples; got "
                f"{values.tolist()}."
            )
        start = torch.logit(values)
    bias.copy_(start)
    return layer
