"""The shapes of what a comparison writes: one record a run, and the summary in results.json."""

from typing import TypedDict


class ClassRecord(TypedDict):
    """How one target column went in one run."""

    target: str
    names: list[str]
    train_count: list[float]
    """Training rows of each class (positives of each label; summed probability where soft)."""
    recall: list[float | None]
    """Test recall of each class; None where the test rows have none of it."""
    confusion: list[list[int]] | None
    """Rows true, columns predicted; None where the task is multi-label."""


class Reliability(TypedDict):
    """Mean predicted probability and observed frequency in bins of equal width; empty bins are left out."""

    confidence: list[float]
    accuracy: list[float]
    count: list[int]


class Curve(TypedDict):
    """One value an epoch."""

    train_loss: list[float]
    valid_loss: list[float]
    valid_score: list[float]


class RunRecord(TypedDict):
    """One loss trained and tested on one split."""

    loss: str
    seed: int
    metrics: dict[str, float]
    classes: list[ClassRecord]
    reliability: Reliability
    curve: Curve
    seconds: float


class Interval(TypedDict):
    """A mean over runs with its 95 % interval, and the runs."""

    mean: float
    ci95: list[float]
    runs: list[float]


class Difference(TypedDict):
    """Paired difference from the baseline in the main metric, over the same splits."""

    mean: float
    ci95: list[float]


class Results(TypedDict):
    """What results.json holds."""

    task: str
    data: dict[str, object]
    """{"name", "rows", "features", "classes": {target name: {class name: count}}, "notes": [...]}"""
    main_metric: str
    losses: dict[str, dict[str, Interval]]
    """{loss: {metric: interval}}"""
    differences: dict[str, Difference]
    """{loss: paired difference from the baseline in the main metric}"""
    baseline: str
    verdict: str
    versions: dict[str, str]
