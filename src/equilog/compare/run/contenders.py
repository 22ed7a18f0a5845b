"""What is compared: a model, what it is trained with, and how its probabilities decide, under one name.

cross-entropy                   the network with a loss of the registry
log-balanced+rule               the same, deciding by the metric's own rule
hist-gb, hist-gb-balanced       someone else's model, plain or with balanced weights
hist-gb+prior-off               the class frequencies of training taken off its probabilities
package.module:Name             the user's own loss (--losses) or estimator (--models)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from equilog.baselines.registry import LOSSES, RECOMMENDED, Task, loss_named, losses_for
from equilog.compare.errors import DataError
from equilog.compare.run.decisions import DECISIONS
from equilog.compare.run.estimators import ESTIMATORS, estimator_from, import_error, is_installed
from equilog.compare.run.foreign_loss import loss_from
from equilog.compare.run.imported import is_import_path
from equilog.compare.run.models import Estimators, Model, ModelSettings, Network
from equilog.error_text import did_you_mean, listed

BASELINE: dict[Task, str] = {
    "multiclass": "cross-entropy",
    "multilabel": "binary-cross-entropy",
    "soft": "cross-entropy",
}
"""The contender the others are compared with: what people use."""

BALANCED = "-balanced"
"""How the name of a model ends whose rows are weighted so that every class counts the same."""

EVERY = "all"
"""Stands for all losses, or all models, that are compared where none are named."""

MOST_TREES = 40
"""With more classes than this, over all targets, models that grow trees for each are compared only where named."""

RATES = (1 / 3, 1.0, 3.0)
"""The learning rates that --tune tries, over that of the settings."""


@dataclass(frozen=True)
class Contender:
    """One way to predict."""

    kind: Literal["loss", "model"]
    base: str
    """The loss that the network is trained with, or the model; a name, or an import path."""
    balanced: bool = False
    decision: str | None = None

    @property
    def name(self) -> str:
        """What it is called in all tables and files."""
        return f"{self.trained}{f'+{self.decision}' if self.decision else ''}"

    @property
    def trained(self) -> str:
        """What it shares with those that differ from it by the decision alone."""
        return f"{self.base}{BALANCED if self.balanced else ''}"

    @property
    def foreign(self) -> bool:
        """Whether it is the user's own."""
        return is_import_path(self.base)

    @property
    def complexity(self) -> tuple[int, int]:
        """How much there is to it, the least first: the model, then what is done beside."""
        beside = 0 if self.decision is None else 1 + list(DECISIONS).index(self.decision)
        beside += self.balanced
        if self.base == "logistic":
            return 1, beside
        return (2 if self.kind == "loss" else 3 + self.foreign), beside

    def model(self, task: Task, settings: ModelSettings, *, seed: int, tune: bool) -> Model:
        """Return what is to be trained."""
        if self.kind == "loss":
            loss = loss_from(self.base, task) if self.foreign else self.base
            rates = tuple(settings.learning_rate * factor for factor in RATES) if tune else ()
            return Network(loss, settings, rates)
        build = estimator_from(self.base) if self.foreign else ESTIMATORS[self.base].build(seed)
        return Estimators(build, self.balanced)


def baseline(task: Task) -> Contender:
    """Return the contender that the others are compared with."""
    return Contender("loss", BASELINE[task])


def named(name: str, task: Task) -> Contender:
    """Return the contender of a name that is no import path: a model where there is one of that name, or a loss."""
    base = _parted(name)[0].removesuffix(BALANCED)
    return _of_model(name, task) if base in ESTIMATORS else _of_loss(name, task)


def chosen(
    task: Task,
    *,
    losses: Sequence[str] = (),
    models: Sequence[str] = (),
    sizes: Sequence[int] = (),
    decides: bool = True,
) -> tuple[tuple[Contender, ...], tuple[str, ...]]:
    """Return the contenders of these names, or those of the task, after its baseline, and notes on what is left out.

    The baseline comes first, so that a comparison cut short has something to compare with.

    Args:
        task: which task.
        losses: names of losses or import paths, with "+prior-off" or "+rule" where so decided; "all".
        models: names of models, or import paths, likewise.
        sizes: the number of classes of each target, or of labels.
        decides: whether the metric depends on decisions.

    Raises:
        DataError: a name that is not known, or does not fit the task or the metric.
    """
    asked: list[Contender] = []
    notes: list[str] = []
    if not losses and not models:
        losses, models = [EVERY], [EVERY]
    for name in losses:
        asked += _all_losses(task, decides=decides) if name == EVERY else [_of_loss(name, task)]
    for name in models:
        if name != EVERY:
            asked.append(_of_model(name, task))
            continue
        found, said = _all_models(task, sizes, decides=decides)
        asked += found
        notes += said
    for contender in asked:
        if contender.decision is not None and task == "soft":
            raise DataError(
                f"{contender.name}: class probabilities have no decision rule; leave +{contender.decision} out."
            )
        if contender.decision == "rule" and not decides:
            raise DataError(
                f"{contender.name}: the metric goes by probabilities, which no rule changes; leave +rule out."
            )
    return tuple(dict.fromkeys([baseline(task), *asked])), tuple(notes)


def _all_losses(task: Task, *, decides: bool) -> list[Contender]:
    """Return every loss as it decides, and the best known of them with the other decisions."""
    asked = [Contender("loss", name) for name in losses_for(task) if not LOSSES[name].named_only]
    if task == "soft" or not decides:
        return asked
    # Logit adjustment is cross-entropy with the prior off.
    if task == "multilabel":
        asked.append(Contender("loss", BASELINE[task], decision="prior-off"))
    return [*asked, *(Contender("loss", name, decision="rule") for name in (BASELINE[task], RECOMMENDED[task]))]


def _all_models(task: Task, sizes: Sequence[int], *, decides: bool) -> tuple[list[Contender], list[str]]:
    names = [name for name in ESTIMATORS if is_installed(name)]
    if task == "soft":
        return [], [f"Left out, since they learn from no class probabilities: {listed(names)}."]
    broken = {name: error for name in names if (error := import_error(name))}
    names = [name for name in names if name not in broken]
    notes = [f"Left out, since its package cannot be imported: {name} ({error})." for name, error in broken.items()]
    if sum(sizes) > MOST_TREES:
        large = [name for name in names if ESTIMATORS[name].trees]
        names = [name for name in names if name not in large]
        notes.append(
            f"Left out, since trees for each of {sum(sizes)} classes take long: {listed(large)}. "
            "Name them with --models to have them."
        )
    found = []
    for name in names:
        found += [Contender("model", name), Contender("model", name, balanced=True)]
        if decides:
            found += [Contender("model", name, decision=decision) for decision in DECISIONS]
    return found, notes


def _of_loss(name: str, task: Task) -> Contender:
    base, decision = _parted(name)
    if is_import_path(base):
        loss_from(base, task)
    else:
        try:
            base = loss_named(base, task).name
        except ValueError as error:
            raise DataError(str(error)) from None
    return Contender("loss", base, decision=decision)


def _of_model(name: str, task: Task) -> Contender:
    base, decision = _parted(name)
    if task == "soft":
        raise DataError(f'"{base}" learns from no class probabilities; leave it out of --models.')
    if is_import_path(base):
        estimator_from(base)
        return Contender("model", base, decision=decision)
    base = base.replace("_", "-")
    plain = base.removesuffix(BALANCED)
    if plain not in ESTIMATORS:
        names = [*ESTIMATORS, *(entry + BALANCED for entry in ESTIMATORS)]
        raise DataError(f'No model is called "{base}". {did_you_mean(base, names)} Your own is package.module:Name.')
    if not is_installed(plain):
        raise DataError(f'"{plain}" needs a package that is not installed: pip install {ESTIMATORS[plain].package}')
    if error := import_error(plain):
        raise DataError(f'"{plain}" needs the package {ESTIMATORS[plain].package}, which cannot be imported: {error}')
    return Contender("model", plain, plain != base, decision)


def _parted(name: str) -> tuple[str, str | None]:
    base, plus, decision = name.partition("+")
    decision = decision.replace("_", "-")
    if plus and decision not in DECISIONS:
        raise DataError(f'{name}: no decision is called "{decision}". {did_you_mean(decision, DECISIONS)}')
    return base, decision if plus else None
