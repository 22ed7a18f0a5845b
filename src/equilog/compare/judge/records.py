"""The shapes of what a comparison writes: one record a run, and the summary in results.json."""

from typing import NotRequired, TypedDict

from equilog.baselines.registry import Task
from equilog.compare.data.splits import SplitSummary


class ClassRecord(TypedDict):
    """How one target column went in one run."""

    target: str
    names: list[str]
    train_count: list[float]
    """Training rows of each class (positives of each label; summed probability where soft)."""
    recall: list[float | None]
    """Test recall of each class; None where the test rows have none of it."""
    confusion: list[list[int]] | None
    """Rows true, columns predicted; None where the task is multi-label or the classes are too many for a matrix."""


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


class DataSummary(TypedDict):
    """What the results say of the data."""

    name: str
    rows: int
    features: int
    """Feature columns as they came."""
    classes: dict[str, dict[str, float]]
    """{target name: {class name: rows of it}}; positives of a label, summed probability where soft."""
    notes: list[str]


class Interval(TypedDict):
    """A mean over runs with its 95 % interval, and the runs."""

    mean: float
    ci95: list[float] | None
    """[low, high]; None where one run, or runs that do not vary, leave nothing to judge the spread by."""
    runs: list[float]


class Difference(Interval):
    """Paired difference from the baseline in the main metric, over the splits both have finished."""

    p_holm: float | None
    """Two-sided p-value after Holm's correction over the losses; None where there is no interval."""


class Results(TypedDict):
    """What results.json holds."""

    task: Task
    data: DataSummary
    main_metric: str
    test_fraction: float
    """The share of the rows that each split tests on; the intervals depend on it."""
    splits: NotRequired[SplitSummary]
    """How the rows were split; there once a comparison has written its results."""
    losses: dict[str, dict[str, Interval]]
    """{loss: {metric: interval}}"""
    differences: dict[str, Difference]
    """{loss: paired difference from the baseline in the main metric}"""
    baseline: str
    verdict: str
    versions: dict[str, str]
