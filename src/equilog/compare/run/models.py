"""What learns from the training rows: the network with a loss, or someone else's estimator for each target."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from equilog.baselines.registry import Task
from equilog.compare.judge.records import Curve
from equilog.compare.run.answers import Answers, Array, TargetNames, as_columns, frequencies, spread
from equilog.decisions import adapt
from equilog.losses.criterion import Criterion
from equilog.sklearn import LogBalancedClassifier

Features = NDArray[np.float32]


class Fitted(Protocol):
    """A trained model."""

    @property
    def curve(self) -> Curve:
        """How training went; empty for models without epochs."""

    @property
    def chosen(self) -> Mapping[str, float]:
        """What was chosen on validation rows."""

    def answers(self, features: Features) -> Answers:
        """Return what it says of rows (n, d)."""


class Model(Protocol):
    """What can be trained, any number of times."""

    def fit(self, features: Features, target: NDArray[Any], names: TargetNames, seed: int) -> Fitted:
        """Train on rows (n, d) with targets as in `Dataset`."""


@dataclass(frozen=True)
class ModelSettings:
    """The network every loss trains: parameters of `LogBalancedClassifier`."""

    hidden_units: tuple[int, ...] = (128,)
    max_epochs: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    batch_size: int = 128
    patience: int = 10
    max_rise: float | None = None
    device: str = "cpu"

    def classifier(self, loss: str | Criterion, task: Task, seed: int) -> LogBalancedClassifier:
        """Return an unfitted classifier; the same seed gives every loss the same initial weights and batches."""
        return LogBalancedClassifier(loss, task=task, random_state=seed, **asdict(self))


@dataclass(frozen=True)
class Network:
    """The network with one loss."""

    loss: str | Criterion
    settings: ModelSettings
    rates: tuple[float, ...] = ()
    """Learning rates to choose from on the validation rows; that of the settings where there are none."""

    def fit(self, features: Features, target: NDArray[Any], names: TargetNames, seed: int) -> "FittedNetwork":
        """Train one network for all targets; of several rates that with the lowest loss on the validation rows."""
        y = as_fitted(target, names.task)
        if not self.rates:
            return FittedNetwork(self.settings.classifier(self.loss, names.task, seed).fit(features, y), names)
        tried: list[tuple[float, float, LogBalancedClassifier]] = []
        overflows: list[ValueError] = []
        for rate in self.rates:
            classifier = replace(self.settings, learning_rate=rate).classifier(self.loss, names.task, seed)
            try:
                model = classifier.fit(features, y)
            except ValueError as error:  # A rate at which the loss overflows is not the one.
                overflows.append(error)
                continue
            reached = [loss for loss in model.history_["valid_loss"] if np.isfinite(loss)]
            # With too few rows to hold some out there is nothing to choose by: the settings' own rate.
            worth = min(reached, default=abs(np.log(rate / self.settings.learning_rate)))
            tried.append((worth, rate, model))
        if not tried:
            raise overflows[0]
        _, rate, model = min(tried, key=lambda one: one[:2])
        return FittedNetwork(model, names, {"learning_rate": rate})


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network."""

    model: LogBalancedClassifier
    names: TargetNames
    chosen: Mapping[str, float] = field(default_factory=dict)

    def answers(self, features: Features) -> Answers:
        """Return what it says of rows (n, d)."""
        posterior, balanced = self.model.predict_probas(features, ["posterior", "balanced"])
        return Answers(self.names.task, self._of_targets(posterior), self._of_targets(balanced))

    def _of_targets(self, said: Any) -> list[Array]:
        """Return the probabilities of each target, 0 for classes that its training rows had none of."""
        if self.names.task != "multiclass":
            return [said]
        columns, known = (said, self.model.classes_) if isinstance(said, list) else ([said], [self.model.classes_])
        return [
            spread(probability, codes, len(classes))
            for probability, codes, classes in zip(columns, known, self.names.classes, strict=True)
        ]

    @property
    def curve(self) -> Curve:
        """The history up to where the loss overflowed, if it did: the model is that of the best epoch before."""
        history = self.model.history_
        losses = [history["train_loss"], history["valid_loss"]]
        epochs = min((epoch for loss in losses for epoch in np.flatnonzero(~np.isfinite(loss))), default=None)
        return {
            "train_loss": history["train_loss"][:epochs],
            "valid_loss": history["valid_loss"][:epochs],
            "valid_score": history["valid_score"][:epochs],
        }


@dataclass(frozen=True)
class Estimators:
    """A classifier of scikit-learn's form, one for each target column or label."""

    estimator: Any
    balanced: bool = False
    """Whether each row is weighted so that every class (or yes and no) counts the same."""

    def fit(self, features: Features, target: NDArray[Any], names: TargetNames, seed: int) -> "FittedEstimators":
        """Train one for each target column, or each label; a column of one class needs none."""
        del seed
        columns = target.T if names.task == "multilabel" else as_columns(target, names.task)
        fits, known = [], []
        for column in columns:
            # Some take only classes that are numbered without gaps.
            classes, codes = np.unique(column.astype(np.int64), return_inverse=True)
            known.append(classes)
            fits.append(self._fitted(features, codes) if len(classes) > 1 else None)
        return FittedEstimators(tuple(fits), tuple(known), tuple(frequencies(target, names)), self.balanced, names)

    def _fitted(self, features: Features, codes: NDArray[np.int64]) -> Any:
        weights = {"sample_weight": compute_sample_weight("balanced", codes)} if self.balanced else {}
        with warnings.catch_warnings(), threadpool_limits(1):
            # Of a search that has not converged, and of names that arrays lack: nothing that a user could put right.
            warnings.simplefilter("ignore")
            return clone(self.estimator).fit(features, codes, **weights)


@dataclass(frozen=True)
class FittedEstimators:
    """A trained classifier for each target column or label, None where all its rows are of one class."""

    fits: tuple[Any, ...]
    known: tuple[NDArray[np.int64], ...]
    """The classes that each was trained on."""
    shares: tuple[Array, ...]
    """For each target the frequency of each class, or of yes."""
    balanced: bool
    names: TargetNames
    chosen: Mapping[str, float] = field(default_factory=dict)

    @property
    def curve(self) -> Curve:
        """Nothing: it has no epochs."""
        return {"train_loss": [], "valid_loss": [], "valid_score": []}

    def answers(self, features: Features) -> Answers:
        """Return what they say of rows (n, d); the weights of training are taken off the posterior."""
        task = self.names.task
        sizes = [2] * len(self.fits) if task == "multilabel" else [len(names) for names in self.names.classes]
        said = [
            spread(_probabilities(fit, features), known, size)
            for fit, known, size in zip(self.fits, self.known, sizes, strict=True)
        ]
        if task == "multilabel":
            said = [np.column_stack([probability[:, 1] for probability in said])]
        if not self.balanced:
            return Answers(task, said, said)
        posterior = [
            adapt(
                probability,
                old_prior=np.full(len(share), 0.5),
                prior=share,
                multilabel=task == "multilabel",
            )
            for probability, share in zip(said, self.shares, strict=True)
        ]
        return Answers(task, posterior, said)


def _probabilities(fit: Any, features: Features) -> Array:
    if fit is None:
        return np.ones((len(features), 1))
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        probability = np.asarray(fit.predict_proba(features), dtype=np.float64)
    total = probability.sum(axis=1, keepdims=True)
    if not ((probability >= 0).all() and (total > 0).all()):
        raise ValueError(f"{type(fit).__name__}.predict_proba gives rows that are no probabilities.")
    # In single precision, or where a model is out of its depth, they do not sum to 1.
    return np.asarray(probability / total)


def as_fitted(target: NDArray[Any], task: Task) -> NDArray[Any]:
    """Return the target as the classifier takes it: a single column of classes as a vector."""
    return target[:, 0] if task == "multiclass" and target.shape[1] == 1 else target
