"""What a trained model is worth: the metrics of `equilog.compare`, averaged over the heads."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmarks.quality.task import GRID, IGNORED, Rows, Split, Task, kept_rows
from benchmarks.quality.train import answers, cells_as_rows, fit, is_grid
from benchmarks.quality.tuned import tuned
from sklearn.metrics import recall_score
from torch import Tensor

from equilog import MultiLabelCrossEntropyLoss
from equilog.baselines import TunedThreshold
from equilog.baselines.registry import Task as Kind
from equilog.calibration import Calibration
from equilog.calibration.base import Kind as Kinds
from equilog.calibration.temperature import likeliest_temperature
from equilog.compare.judge.metrics import evaluate, metrics_for
from equilog.losses.criterion import Criterion

CALIBRATION = ("accuracy", "nll", "brier", "calibration_error")
"""What is asked of the posterior."""

GRIDS = 100
"""Grids that tell what the logits say: of thousands of labels each, more would tell the same."""

RECALLS = 60
"""The recall of each class is kept for a single head of so many classes at most."""

Record = dict[str, Any]


class Head:
    """What one head's logits say, beside what is true, a set a row; what is to be left out is left out."""

    def __init__(self, kind: Kind, calibration: Calibration, logits: Tensor, target: Tensor) -> None:
        self.kind = kind
        self.calibration = calibration
        if kind == "multiclass":
            kept = target != IGNORED
            logits, target = logits.movedim(1, -1)[kept], target[kept]
        elif target.dim() == GRID:
            kept = kept_rows(target)
            logits, target = logits[kept], target[kept]
        self.logits, self.target = logits, target

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """The logits and the target."""
        return self.logits, self.target

    def metrics(
        self,
        names: Sequence[str] | None = None,
        *,
        temperature: float = 1.0,
        decide: str = "loss",
        kind: Kinds = "posterior",
    ) -> dict[str, float]:
        """Return these metrics, or every one, decisions being those of the loss or those of the posterior."""
        posterior = self.calibration.probabilities(self.logits, kind, temperature).double()
        if decide == "loss":
            predicted = self.calibration.predict(self.logits)
        else:
            predicted = (posterior > 0.5).long() if self.kind == "multilabel" else posterior.argmax(1)
        metrics = [metric for name, metric in metrics_for(self.kind).items() if names is None or name in names]
        if self.kind == "multiclass":
            columns: Any = [posterior.numpy()]
            return evaluate(self.kind, self.target[:, None].numpy(), predicted[:, None].numpy(), columns, metrics)
        return evaluate(self.kind, self.target.double().numpy(), predicted.numpy(), posterior.numpy(), metrics)


def run(task: Task, split: Split, setting: str, seed: int, learning_rate: float, weight_decay: float) -> Record:
    """Train once and return what is to be kept of it, ready for JSON.

    "valid": the main metric on the validation rows. "test": all metrics on the test rows; "bare", the main one by the
    bare logits, before any calibration; "posterior", the main one of decisions by the posterior. "drawn": accuracy and
    calibration of the posterior on rows whose classes are as frequent as in training; "tempered", with a temperature
    fitted on such validation rows. "tuned", the main one with one number chosen on the validation rows, None where
    there is no decision to move. "recall": of each class on the test rows, None where there are many; "seconds": of
    the training.
    """
    start = time.perf_counter()
    model, criteria = fit(task, split, setting, seed, learning_rate, weight_decay)
    seconds = time.perf_counter() - start

    main = (task.metric,)
    calibrations = [criterion.uncalibrated() for criterion in criteria]

    valid_logits, test_logits = answers(model, split.valid), answers(model, split.test)

    def heads(rows: Rows, logits: Sequence[Tensor], index: Tensor | None = None) -> list[Head]:
        chosen = slice(None) if index is None else index
        return [
            Head(task.kind, calibration, said[chosen], target[chosen])
            for calibration, said, target in zip(calibrations, logits, rows.targets, strict=True)
        ]

    bare = _mean([head.metrics(main, kind="balanced") for head in heads(split.test, test_logits)])[task.metric]
    # One threshold for all labels is chosen on rows held out of training; what pools hold is told by those trained on.
    rows = split.valid if isinstance(criteria[0], TunedThreshold) else split.train
    calibrations = [calibrated(*head) for head in zip(criteria, answers(model, rows), rows.targets, strict=True)]
    valid, test = heads(split.valid, valid_logits), heads(split.test, test_logits)
    drawn = heads(split.test, test_logits, split.test_as_drawn)
    temperature = _temperature(heads(split.valid, valid_logits, split.valid_as_drawn))
    return {
        "valid": _short(_mean([head.metrics(main) for head in valid])[task.metric]),
        "test": _short(_mean([head.metrics() for head in test])),
        "bare": _short(bare),
        "posterior": _short(_mean([head.metrics(main, decide="posterior") for head in test])[task.metric]),
        "tuned": _tuned(task, split, valid, test),
        "drawn": _calibration(drawn, 1.0),
        "tempered": _calibration(drawn, temperature),
        "temperature": _short(temperature),
        "recall": _recall(test, split.classes),
        "seconds": round(seconds, 2),
    }


def calibrated(criterion: Criterion, logits: Tensor, target: Tensor) -> Calibration:
    """Return what a head's logits say, told without the cells of a grid that are to be left out."""
    if not is_grid(criterion, target):
        return criterion.calibrate(logits, target)
    logits, target = cells_as_rows(criterion, logits[:GRIDS], target[:GRIDS])
    if isinstance(criterion, MultiLabelCrossEntropyLoss):  # which must know what shared a pool
        return criterion.calibrate(logits, target, mask=target != IGNORED)
    kept = kept_rows(target)
    return criterion.calibrate(logits[kept], target[kept])


def _tuned(task: Task, split: Split, valid: Sequence[Head], test: Sequence[Head]) -> float | None:
    if task.kind == "soft" or task.metric == "map":
        return None
    worth = [
        tuned(task.kind, task.metric, at.calibration, counts.class_count, at.rows, to.rows)
        for counts, at, to in zip(split.counts(task.kind), valid, test, strict=True)
    ]
    return _short(float(np.mean(worth)))


def _mean(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(each) for each in metrics))
    return {name: float(np.mean([each[name] for each in metrics])) for name in metrics[0] if name in names}


def _calibration(heads: Sequence[Head], temperature: float) -> dict[str, float]:
    mean = _mean([head.metrics(CALIBRATION, temperature=temperature, decide="posterior") for head in heads])
    return _short({name: mean[name] for name in CALIBRATION if name in mean})


def _temperature(heads: Sequence[Head]) -> float:
    """Return one temperature for all heads, 1 where their rows are not the same, as when they leave out others."""
    rows = {len(head.target) for head in heads}
    if len(rows) > 1:
        return 1.0
    columns = [(h.calibration.scores(h.logits, "posterior"), h.target, h.kind == "multilabel") for h in heads]
    return likeliest_temperature(columns, None)


def _recall(heads: Sequence[Head], classes: Sequence[int]) -> list[float] | None:
    if len(heads) > 1 or classes[0] > RECALLS or heads[0].kind == "soft":
        return None
    head = heads[0]
    codes = range(classes[0])
    found = recall_score(
        head.target.numpy(),
        head.calibration.predict(head.logits).numpy(),
        labels=codes,
        average=None,
        zero_division=0.0,
    )
    return [_short(float(recall)) for recall in found]


def _short(value: Any) -> Any:
    """Return a number, or a dictionary of them, in five digits: the results are data that people read."""
    if isinstance(value, dict):
        return {name: _short(number) for name, number in value.items()}
    return float(f"{value:.5g}")
