"""One picture per claim worth seeing, as SVG: the same bytes for the same numbers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from equilog import article
from equilog.losses.multiclass import log_balanced_cross_entropy
from equilog.verify.experiments import (
    Loss,
    PooledAnswer,
    full_batch_answer,
    loss_by_class_size,
    one_thread,
    pooled_answer,
    random_logits,
    random_probabilities,
    separable_fit,
    soft_answer,
    truncation,
)

_STYLE = {
    "svg.hashsalt": "equilog",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_OURS, _OTHER, _REFERENCE = "#0b6e99", "#d1572b", "#888888"


def draw(folder: Path) -> list[Path]:
    """Draw every figure into a folder, made where it does not exist, and return their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in FIGURES.items():
        with one_thread(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            path = folder / f"{name}.svg"
            figure().savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths


def balance() -> Figure:
    """What a class costs against its size: cross-entropy in proportion, one log per class like the log."""
    figure, (cost, pull) = _panels(2)
    sizes = [2**k for k in range(15)]
    for loss, name, colour in (
        (article.softmax_cross_entropy_over_sets, "cross-entropy", _OTHER),
        (article.loss_one, "one log per class", _OURS),
    ):
        cost.loglog(sizes, loss_by_class_size(loss, sizes), "o-", markersize=3, color=colour, label=name)
        pull.loglog(sizes, _gradient_by_class_size(loss, sizes), "o-", markersize=3, color=colour)
    pull.axhline(2, color=_REFERENCE, linewidth=1, linestyle=":")
    _note(pull, "bound: 2 a class", sizes[-1], 2, (0, 4), ha="right", color=_REFERENCE)
    cost.set(title="loss of a class, nats", xlabel="sets of the class")
    pull.set(title="its pull: sum of the gradient's entries", xlabel="sets of the class")
    cost.legend()
    return figure


def truncated() -> Figure:
    """The product of 1 + odds cut after each order: from one log per class to cross-entropy."""
    figure, (panel,) = _panels(1)
    orders = list(range(1, 61))
    values = truncation(orders)
    panel.plot(orders, values, color=_OURS)
    panel.axhline(float(values[-1]), color=_OTHER, linewidth=1, linestyle=":")
    _note(panel, "order n: cross-entropy", orders[-1], float(values[-1]), (0, -14), ha="right")
    _note(panel, "order 1: one log per class", orders[0], float(values[0]), (10, -3))
    panel.set(title="loss of 60 sets, nats", xlabel="order kept", ylim=(0, None))
    return figure


def soft_targets() -> Figure:
    """What losses answer to soft targets: rows miss, transpose-closed groupings and compensated rows do not."""
    target = random_probabilities(12, 4)
    figure, panels = _panels(3)
    for panel, (title, loss) in zip(
        panels,
        (
            ("one log per class", partial(log_balanced_cross_entropy, compensation=None, reduction="sum")),
            ("one log per pair of classes", partial(log_balanced_cross_entropy, balance="pair", reduction="sum")),
            (
                "one log per class, weighted",
                partial(log_balanced_cross_entropy, compensation="weight", reduction="sum"),
            ),
        ),
        strict=True,
    ):
        found = soft_answer(loss, target)
        panel.plot([0, 1], [0, 1], color=_REFERENCE, linewidth=1)
        panel.scatter(target, (2 * found).softmax(1), s=8, color=_OURS)
        panel.set(title=title, xlabel="target", aspect="equal")
    panels[0].set_ylabel("softmax(2 s) at the minimum")
    return figure


def separable() -> Figure:
    """Loss-1 and loss-3 trained to the same low value on separable classes of unequal size."""
    figure, panels = _panels(2)
    side = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    for panel, (name, loss) in zip(panels, (("loss-1", article.loss_one), ("loss-3", article.loss_three)), strict=True):
        fit = separable_fit(loss)
        regions = fit.predict(grid).reshape(301, 301).T
        panel.imshow(regions.numpy(), extent=(-1.5, 1.5, -1.5, 1.5), origin="lower", cmap="Set3", alpha=0.6)
        panel.set_rasterization_zorder(2)  # hundreds of points as paths would be most of the file
        wrong = fit.predict(fit.points) != fit.labels
        x, y = fit.points.unbind(1)
        panel.scatter(x[~wrong], y[~wrong], s=4, color="#444444", zorder=1.5)
        panel.scatter(x[wrong], y[wrong], s=22, marker="x", color="#c00000", zorder=3)
        panel.set(title=f"{name} at {fit.loss:.2f}: {int(wrong.sum())} of {len(wrong)} wrong", aspect="equal")
        panel.set(xticks=[], yticks=[])
    return figure


def posterior() -> Figure:
    """Trained scores against the true posterior, before and after putting the class mass back."""
    answers: list[tuple[str, PooledAnswer]] = [(f"pools of {size}", pooled_answer(size)) for size in (1, 2, 3)]
    answers.append(("one pool of 200,000", full_batch_answer()))
    figure, panels = _panels(len(answers))
    for panel, (title, answer) in zip(panels, answers, strict=True):
        panel.plot([0, 0.8], [0, 0.8], color=_REFERENCE, linewidth=1)
        panel.scatter(answer.posterior, answer.bare, s=22, marker="x", color=_OTHER, label="the scores as they are")
        panel.scatter(answer.posterior, answer.recovered, s=12, color=_OURS, label="class mass put back")
        panel.set(title=title, xlabel="P(class | features)", aspect="equal", xlim=(0, 0.8), ylim=(0, 0.8))
    panels[0].legend(loc="upper left", handletextpad=0)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "balance": balance,
    "truncated": truncated,
    "soft-targets": soft_targets,
    "separable": separable,
    "posterior": posterior,
}
"""Every figure by the name of its file."""


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=({1: 5.0, 2: 8.0}.get(count, 3.0 * count), 3.4))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _note(panel: Axes, text: str, x: float, y: float, offset: tuple[float, float], **style: Any) -> None:
    """Write beside a point; the offset is in typographic points."""
    panel.annotate(text, (x, y), xytext=offset, textcoords="offset points", **style)


def _gradient_by_class_size(loss: Loss, sizes: list[int]) -> Tensor:
    """Return the sum of the gradient's absolute entries over a class of each size."""

    def of(size: int) -> Tensor:
        target = torch.zeros(size, dtype=torch.int64)
        gradient: Tensor = torch.func.grad(lambda s: loss(s, target))(random_logits(size, 3))
        return gradient.abs().sum()

    return torch.stack([of(size) for size in sizes])
