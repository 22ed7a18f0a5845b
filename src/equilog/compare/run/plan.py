"""What to compare, checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from equilog._version import __version__
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.splits import TEST_FRACTION
from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import MetricChoice, default_metric
from equilog.compare.run.contenders import Contender
from equilog.compare.run.estimators import estimator_from
from equilog.compare.run.models import ModelSettings
from equilog.compare.run.storage import why_not
from equilog.compare.run.store import fingerprint
from equilog.error_text import did_you_mean
from equilog.sklearn import LogBalancedClassifier
from equilog.sklearn.parameters import check_parameters


@dataclass(frozen=True)
class Plan:
    """What to compare."""

    contenders: tuple[Contender, ...]
    seeds: int = 5
    """Splits drawn at random, rounds of folds, or windows of time, as `splits_of` makes them."""
    test_fraction: float | None = None
    folds: int | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    metric: MetricChoice | None = None
    """What decides; the metric of the task if None."""
    tune: bool = False
    """Whether the learning rate of each loss is chosen on validation rows."""
    save: str | None = None
    """The contender to save; chosen by the results if None."""
    command: str = ""
    """As the results are to quote it."""
    notes: tuple[str, ...] = ()
    """What a user should know of the choice of contenders, a sentence each."""


def check(plan: Plan, jobs: int) -> None:
    """Raise DataError where the plan cannot be carried out, whatever the data."""
    if jobs == 0:
        raise DataError("--jobs must be a number of processes, or -1 for one a processor; got 0.")
    names = [contender.name for contender in plan.contenders]
    if plan.save is not None and plan.save not in names:
        raise DataError(f'--save: no contender is called "{plan.save}". {did_you_mean(plan.save, names)}')
    try:
        check_parameters(LogBalancedClassifier(**asdict(plan.model)).get_params())
    except ValueError as error:
        raise DataError(str(error)) from error
    try:
        torch.empty(0, device=plan.model.device)
    except (RuntimeError, AssertionError) as error:
        # torch goes on about how the device could be debugged.
        raise DataError(f"--device {plan.model.device} cannot be used: {str(error).splitlines()[0]}") from error


def unstorable_of(plan: Plan) -> dict[str, str]:
    """Return which of the user's own models cannot be saved, as far as is known before they are trained, and why.

    Raises:
        DataError: one of them is to be saved.
    """
    estimators = {one.base: estimator_from(one.base) for one in plan.contenders if one.kind == "model" and one.foreign}
    reasons = {base: reason for base, estimator in estimators.items() if (reason := why_not([estimator]))}
    unstorable = {one.name: reasons[one.base] for one in plan.contenders if one.base in reasons}
    if plan.save in unstorable:
        raise DataError(f"--save: {plan.save} cannot be saved: {unstorable[plan.save]}. Save another.")
    return unstorable


def settings_of(plan: Plan, dataset: Dataset) -> Mapping[str, object]:
    """Return what makes a run of some contender on some split what it is, however many there are of both."""
    by = dataset.split_column
    metric = plan.metric or default_metric(dataset.task)
    return {
        "equilog": __version__,
        "data": dataset.name,
        "fingerprint": fingerprint(dataset),
        "test_fraction": plan.test_fraction or TEST_FRACTION,
        "folds": plan.folds,
        "split by": by and by.by,
        "split column": by and by.name,
        # How many windows there are decides where each begins.
        "windows": plan.seeds if by is not None and by.by == "time" else None,
        **asdict(plan.model),
        "metric": metric.name,
        "costs": metric.costs,
        "tune": plan.tune,
    }
