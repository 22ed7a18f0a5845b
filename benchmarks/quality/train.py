"""One training: AdamW, or another optimizer, with a cosine schedule, and the model of the last epoch."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from benchmarks.quality.criteria import Scheduled
from benchmarks.quality.settings import SETTINGS
from benchmarks.quality.task import GRID, IGNORED, Rows, Split, Task
from torch import Tensor, nn

from equilog import MultiLabelCrossEntropyLoss, init_bias_
from equilog.baselines.registry import TargetCounts
from equilog.baselines.registry import Task as Kind
from equilog.losses.criterion import Criterion

ADAMW = partial(torch.optim.AdamW, fused=True)

AT_ONCE = 4096
"""Rows that the trained model is asked for at once."""


def fit(
    task: Task,
    split: Split,
    setting: str,
    seed: int,
    learning_rate: float,
    weight_decay: float,
    build_optimizer: Callable[..., torch.optim.Optimizer] = ADAMW,
) -> tuple[nn.Module, tuple[Criterion, ...]]:
    """Return the model and its losses, one for each head, after the last epoch.

    The seed decides the first weights and the order of the rows, so that all settings of one seed start alike.
    """
    torch.manual_seed(seed)
    model = task.model(split)
    chosen, counts = SETTINGS[setting], split.counts(task.kind)
    if chosen.starts_at_prior:
        start_at_prior(model, task.kind, counts)
    criteria = tuple(chosen.build(count) for count in counts)
    train = split.train
    steps = task.epochs * -(-len(train) // task.batch_size)
    optimizer = build_optimizer(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(task.epochs):
        for criterion in criteria:
            if isinstance(criterion, Scheduled):
                criterion.progress = epoch / task.epochs
        for index in torch.randperm(len(train), generator=order).split(task.batch_size):
            rows = train.take(index)
            heads = zip(criteria, _heads(model, rows.features), rows.targets, strict=True)
            loss = torch.stack([loss_of(*head) for head in heads]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    for module in (model, *criteria):
        module.eval()
    return model, criteria


def loss_of(criterion: Criterion, logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of one head, without the cells of a grid that are to be left out."""
    if not is_grid(criterion, target):
        return criterion(logits, target)
    logits, target = cells_as_rows(criterion, logits, target)
    return criterion(logits, target, mask=target != IGNORED)


def is_grid(criterion: Criterion, target: Tensor) -> bool:
    """Tell whether the labels are those of cells (N, cells, L)."""
    return criterion.multilabel and target.dim() == GRID


def cells_as_rows(criterion: Criterion, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels of a grid as (N cells, L), unless the loss pools what is in a row of the task."""
    if isinstance(criterion, MultiLabelCrossEntropyLoss) and criterion.options.pool == "sample":
        return logits, target
    return logits.flatten(0, 1), target.flatten(0, 1)


def start_at_prior(model: nn.Module, kind: Kind, counts: Sequence[TargetCounts]) -> None:
    """Set the bias of the model's last layer to the frequencies of the training targets, for all heads at once."""
    last = [layer for layer in model.modules() if isinstance(getattr(layer, "bias", None), Tensor)][-1]
    least = 0.5  # of a class or label never seen
    if kind == "multilabel":
        shares = [count.class_count.clamp(min=least) / (count.rows + 1) for count in counts]
        init_bias_(last, torch.cat(shares), task="multilabel")
    else:  # a softmax for each head does not see what is the same for all its classes
        init_bias_(last, torch.cat([count.class_count.clamp(min=least) for count in counts]))


@torch.no_grad()
def answers(model: nn.Module, rows: Rows) -> tuple[Tensor, ...]:
    """Return the logits of all rows, a tensor for each head. What overflowed is 0, all the same to every class.

    Minus infinity stays: a class that takes no part.
    """
    parts = [_heads(model, features) for features in rows.features.split(AT_ONCE)]
    heads = [torch.cat(head) for head in zip(*parts, strict=True)]
    return tuple(torch.where(logits < torch.inf, logits, 0.0) for logits in heads)


def _heads(model: nn.Module, features: Tensor) -> tuple[Tensor, ...]:
    given = model(features)
    return (given,) if isinstance(given, Tensor) else tuple(given)
