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
    test_count: list[int]
    """Test rows of each class, of its likeliest class where soft; positives of each label."""
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
    """One contender trained and tested on one split."""

    loss: str
    """The name of the contender: a loss, or a model with what is done beside."""
    seed: int
    metrics: dict[str, float]
    classes: list[ClassRecord]
    reliability: Reliability
    curve: Curve
    """Empty for models without epochs."""
    chosen: dict[str, float]
    """What was chosen on validation rows, such as the learning rate."""
    seconds: float
    """To train it and learn how it decides; what contenders share counts for each."""


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
    """Two-sided p-value after Holm's correction over the contenders; None where there is no interval."""


class Cost(Interval):
    """Paired difference of the saved contender from the baseline in a metric that does not decide."""

    metric: str
    baseline_mean: float
    """What the baseline has on the same splits; the saved contender has so much and `mean`."""


class Choice(TypedDict):
    """Which contender is saved, and why."""

    name: str
    best: str
    """The best of those that are seen to be better than the baseline, or the baseline."""
    reason: str
    """A sentence."""


class Provenance(TypedDict):
    """Where the results come from."""

    command: str
    date: str
    """When they were summed up, ISO 8601 with the offset from UTC."""
    settings: dict[str, object]
    """Of the network and the splits, as --resume compares them."""
    seconds: dict[str, float]
    """{contender: mean seconds a split}"""
    chosen: dict[str, dict[str, list[float]]]
    """{contender: {what was chosen on validation rows: its value in each run}}"""


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
    """{contender: {metric: interval}}"""
    differences: dict[str, Difference]
    """{contender: paired difference from the baseline in the main metric}"""
    baseline: str
    verdict: str
    saved: Choice
    costs: list[Cost]
    """What the saved contender gives up: metrics in which it is worse than the baseline."""
    versions: dict[str, str]
    provenance: NotRequired[Provenance]
