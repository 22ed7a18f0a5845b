"""The estimator: what scikit-learn asks of a classifier, around a network and its training loop."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.func import functional_call

from equilog.baselines import TunedThreshold
from equilog.baselines.registry import TargetCounts, Task
from equilog.calibration import Calibration
from equilog.calibration.base import Kind
from equilog.calibration.temperature import likeliest_temperature
from equilog.losses.criterion import Criterion
from equilog.sklearn.adamw import AdamW
from equilog.sklearn.calibration import divergence
from equilog.sklearn.class_weight import ClassWeight, from_json, to_json, weights_of_classes
from equilog.sklearn.column_loss import ColumnLoss
from equilog.sklearn.early_stopping import EarlyStopping
from equilog.sklearn.held_out import validation_rows
from equilog.sklearn.inputs import read_features, read_rows
from equilog.sklearn.losses import criteria_for
from equilog.sklearn.network import perceptron
from equilog.sklearn.parameters import check_parameters
from equilog.sklearn.rows import Features, Rows, as_features
from equilog.sklearn.targets import Targets, columns_of
from equilog.sklearn.threads import threads_for
from equilog.sklearn.training import History, Trainer
from equilog.sklearn.unstored_loss import UnstoredLoss, state_without_loss

FEWEST_HELD_OUT = 10
"""Fewer validation rows than this tell too little to stop or to set a temperature by; then none are held out."""

INFERENCE_ROWS, INFERENCE_VALUES = 2048, 2**23
"""Most rows, and most numbers in them, put through the network at once outside training, to bound memory."""


class LogBalancedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear model or multilayer perceptron trained with a loss of the registry.

    Minimises over the weights θ of the network f_θ the mean over batches B and over the k target columns

        1/k Σ_c loss_c(f_θ(x_i)_c, y_ic, w_i : i in B)

    by AdamW, where column c has logits and a loss of its own, so a loss that pools rows pools them within a batch
    and a column. A share of the rows is held out, each class in proportion, for early stopping on the loss and
    then for one temperature T of all probabilities, the minimum of Σ_i -log p(y_i | x_i, T) + (log2 T)² / 2 over
    those rows. Every loss starts from the same weights and sees the same batches where `random_state` is the same.

    Features should be of comparable scale: put a `StandardScaler` before it where they are not, or for a sparse X,
    which it would have to make dense, a `MaxAbsScaler`. Sparse rows are made dense a batch at a time.

    A network of up to 2^25 multiply-adds a batch is trained on one thread of the CPU: there, threads would wait for
    each other longer than they compute. The number of threads is torch's for the whole process; it is put back when
    training ends, also by an error, and also where several threads train at once.

    Args:
        loss: a name of `equilog.baselines.registry.LOSSES` ("-" and "_" are the same) or a `Criterion`, of which each
            target column gets a copy; "auto" is the one recommended for the task.
        hidden_units: width of each hidden layer; () is a linear model.
        dropout: share of hidden units dropped in training, in [0, 1).
        learning_rate: step size of AdamW. A linear model on few rows needs a larger one, such as 0.03, to be done
            within `max_epochs`.
        weight_decay: decoupled weight decay of AdamW.
        batch_size: rows a step.
        max_epochs: most passes over the rows.
        early_stopping: stop after `patience` epochs without a lower validation loss, and go back to the best epoch.
            Without it no rows are held out.
        validation_fraction: share of the rows held out, in (0, 1). None are held out where they would be fewer than
            10; then training takes `max_epochs` and the temperature is 1.
        patience: epochs.
        max_rise: stop also once the validation loss has risen twice in a row to more than this share above the lowest,
            such as 0.02, at least 0. None is never: on few rows, whose loss jumps.
        task: "multiclass", "multilabel", "soft", or "auto", which tells by y: one column is multiclass, several of
            0 and 1 are multi-label, rows of fractions that sum to 1 are soft, other columns are several targets.
        class_weight: a dict from class to its weight, 1 where it has none; a list of such dicts for several target
            columns; or "balanced", weights inverse to the number of training rows. The classes are decided between by
            w_j p_j, where p_j are the probabilities that the loss would decide by without: so this comes on top of
            what a loss balances by itself, and "balanced" is for losses that balance nothing, such as cross-entropy.
            Other authors' losses are trained so, each row weighted by its class, as scikit-learn's estimators are.
            Ours would take such weights for frequencies and remove them, so they are applied where it decides. The
            posterior is without the weights. Only their ratios count. Not for multi-label and soft targets, where a
            row has no one class.
        verbose: 1 prints a line an epoch.
        random_state: int, RandomState or None, for initial weights, batches, dropout and the held-out rows. The
            global generators of torch are left as they were.
        device: where the network is trained, such as "cpu" or "cuda".

    Attributes:
        classes_: the classes; a list of arrays for several target columns; label or class numbers for multi-label
            and soft targets.
        task_: the task as told by y.
        loss_: the name of the loss, or of the class of the criterion.
        history_: {"train_loss", "valid_loss", "valid_score"}, a list each, one value an epoch; the score is balanced
            accuracy, macro-F1 (multi-label) or minus the KL divergence in nats (soft). The last two are empty
            where no rows are held out.
        n_iter_: epochs trained, also those after the best.
        temperature_: what the scores are divided by before softmax or sigmoid.
        network_: the trained torch module, from features (n, d) to the logits of all columns side by side.
        criterion_: the losses of the columns as one; those of the columns are its `criteria`.
        calibrations_: what the trained logits of each column say: an `equilog.Calibration` each.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = LogBalancedClassifier(random_state=0).fit(X, y)
        >>> model.loss_, model.score(X, y) > 0.9, model.predict_proba(X[:2]).shape
        ('log-balanced', True, (2, 3))
    """

    def __init__(
        self,
        loss: str | Criterion = "auto",
        *,
        hidden_units: Sequence[int] = (128,),
        dropout: float = 0.0,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 128,
        max_epochs: int = 100,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        patience: int = 10,
        max_rise: float | None = None,
        task: Task | Literal["auto"] = "auto",
        class_weight: ClassWeight = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.loss = loss
        self.hidden_units = hidden_units
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.max_rise = max_rise
        self.task = task
        self.class_weight = class_weight
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train from new weights.

        Args:
            X: (n, d) finite numbers, dense or sparse.
            y: (n,) labels, (n, k) labels of k columns, (n, L) of 0 and 1, or (n, C) class probabilities.
            sample_weight: (n,), at least 0. Only their ratios count: they are divided by their mean. A row of
                weight 0 is as good as absent, its class too.

        Raises:
            ValueError: an argument or parameter is not as described, or the loss overflowed in training.
        """
        check_parameters(self.get_params())
        features, columns, weight = read_rows(self, X, y, sample_weight, reset=True)
        self._begin(Targets.of(columns, self.task))
        target = self._targets.encode(columns)
        held_out = self._held_out(target)
        weight = weight / weight.mean()
        rows = self._rows(features, target, weight)
        training, validation = rows.those(~held_out), rows.those(held_out)
        with self._threads():
            self._build(self._targets.counts(training.target, training.weight))
            self._train(training, validation if len(validation) else None, self.max_epochs)
            if len(validation):
                self._calibrate(validation)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch on these rows, from the present weights or, at the first call, from new ones.

        Nothing is held out, so the temperature stays what it was. A loss that is made from class counts is made
        from those of the first call.

        Args:
            X: (n, d) finite numbers, dense or sparse.
            y: targets as in `fit`.
            classes: all classes there will be: an array, or a list of arrays for several target columns. Needed
                at the first call where y does not show all of them yet.
            sample_weight: (n,), at least 0, taken as they are.
        """
        check_parameters(self.get_params())
        first = not hasattr(self, "network_")
        features, columns, weight = read_rows(self, X, y, sample_weight, reset=first)
        if first:
            self._begin(Targets.of(columns, self.task, classes))
        rows = self._rows(features, self._targets.encode(columns), weight)
        with self._threads():
            if first:
                self._build(self._targets.counts(rows.target, rows.weight))
            self._train(rows, None, 1)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the largest balanced probability: (n,), (n, k) for k columns, (n, L) of 0 and 1."""
        predicted = [calibration.predict(logits).cpu() for calibration, logits in self._column_logits(X)]
        return self._targets.decode(predicted)

    def predict_proba(self, X: ArrayLike, kind: Kind = "balanced") -> Any:
        """Return probabilities (n, C), a list of such for several columns, or (n, L) for multi-label.

        Args:
            X: (n, d) finite numbers, dense or sparse.
            kind: "balanced" as the loss decides, so that the largest is the predicted class; "posterior" of the
                data as drawn, where frequent classes are likelier.
        """
        return self.predict_probas(X, [kind])[0]

    def predict_probas(self, X: ArrayLike, kinds: Sequence[Kind]) -> list[Any]:
        """Return what `predict_proba` does of each kind; the network computes once."""
        columns = self._column_logits(X)
        return [_answer([calibration.probabilities(logits, kind) for calibration, logits in columns]) for kind in kinds]

    def decision_function(self, X: ArrayLike) -> Any:
        """Return balanced scores, shaped as `predict_proba`, or (n,) above 0 for the second of two classes."""
        scores = [calibration.scores(logits) * self.temperature_ for calibration, logits in self._column_logits(X)]
        if self._targets.single and scores[0].shape[1] == 2:
            scores = [scores[0][:, 1] - scores[0][:, 0]]
        return _answer(scores)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy, as scikit-learn's classifiers do.

        It is that of whole rows where multi-label, the mean over columns where several, and minus the mean
        KL(y || posterior) in nats where soft. Accuracy hides rare classes: give a search
        `scoring="balanced_accuracy"`.
        """
        check_is_fitted(self)
        columns = columns_of(y)
        if self.task_ == "soft":
            [(calibration, logits)] = self._column_logits(X)
            target = self._targets.encode(columns).to(self.device)
            per_row: NDArray[Any] = -divergence(calibration, logits, target).cpu().numpy()
        else:
            predicted = self.predict(X).reshape(-1, len(columns))
            hits = np.column_stack([column == p for column, p in zip(columns, predicted.T, strict=True)])
            per_row = np.asarray(hits.all(1) if self.task_ == "multilabel" else hits.mean(1))
        return float(np.average(per_row, weights=None if sample_weight is None else np.asarray(sample_weight)))

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that prediction needs: named tensors, and a dict of what JSON can hold.

        They can be written as safetensors and JSON, whose loading runs no code. `from_state` makes an estimator of
        them that predicts the same. A loss that was given as a module is left out, so that the estimator cannot be
        trained further.

        Raises:
            ValueError: the loss was given as a module whose own `scores` or `calibrate` prediction needs, or the
                classes are not strings, numbers or booleans.
        """
        check_is_fitted(self)
        by_name = isinstance(self.loss, str)
        calibrations = [c.state_dict() if by_name else state_without_loss(c) for c in self.calibrations_]
        if None in calibrations:
            raise ValueError(
                f"LogBalancedClassifier.to_state: loss {type(self.loss).__name__}() is a module whose own scores or "
                "calibrate prediction needs, and code is not stored; give a loss by name, or one whose scores are the "
                "logits."
            )
        parameters = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.get_params().items()}
        parameters["loss"] = self.loss if by_name else None
        parameters["hidden_units"] = [int(units) for units in self.hidden_units]
        parameters["class_weight"] = to_json(self.class_weight)
        # A model is often opened where its device is not.
        parameters["device"] = "cpu"
        # A generator's state is no part of what was learnt.
        parameters["random_state"] = parameters["random_state"] if isinstance(self.random_state, int) else None
        config = {
            "parameters": parameters,
            "targets": self._targets.to_config(),
            "counts": [{"class_count": c.class_count.tolist(), "rows": c.rows} for c in self._counts],
            "temperature": self.temperature_,
            "n_features": self.n_features_in_,
            "feature_names": list(getattr(self, "feature_names_in_", [])),
            # JSON has no number for an epoch that overflowed.
            "history": {k: [v if np.isfinite(v) else None for v in values] for k, values in self.history_.items()},
        }
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().clone()
            for part, module in self._parts().items()
            for name, tensor in module.state_dict().items()
            if by_name or part != "loss"
        }
        for number, calibration in enumerate(calibrations):
            for name, tensor in (calibration or {}).items():
                tensors[f"calibration.{number}.{name}"] = tensor.detach().cpu().clone()
        return tensors, config

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], config: dict[str, Any]) -> Self:
        """Return the fitted estimator that `to_state` described. `partial_fit` goes on from it, of a loss by name."""
        parameters = dict(config["parameters"])
        if parameters["loss"] is None:
            parameters["loss"] = UnstoredLoss(multilabel=config["targets"]["task"] == "multilabel")
        parameters["hidden_units"] = tuple(parameters["hidden_units"])
        parameters["class_weight"] = from_json(parameters["class_weight"])
        model = cls(**parameters)
        model.n_features_in_ = config["n_features"]
        if config["feature_names"]:
            model.feature_names_in_ = np.array(config["feature_names"], dtype=object)
        model._begin(Targets.from_config(config["targets"]))
        model._build(
            [TargetCounts(torch.tensor(c["class_count"], dtype=torch.float64), c["rows"]) for c in config["counts"]]
        )
        for part, module in model._parts().items():
            module.load_state_dict(
                {key.removeprefix(f"{part}."): t for key, t in tensors.items() if key.startswith(f"{part}.")}
            )
        model.calibrations_ = [
            criterion.calibration_from(
                {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            )
            for prefix, criterion in ((f"calibration.{i}.", c) for i, c in enumerate(model.criterion_.criteria))
        ]
        model._set_temperature(config["temperature"])
        model.history_ = {
            name: [np.nan if value is None else value for value in values] for name, values in config["history"].items()
        }
        model.n_iter_ = len(model.history_["train_loss"])
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        return tags

    def _begin(self, targets: Targets) -> None:
        """Forget what was learnt."""
        self._targets = targets
        self._random = np.random.RandomState(check_random_state(self.random_state).randint(2**31 - 1))
        self.task_ = targets.task
        self.classes_ = targets.classes[0] if len(targets.classes) == 1 else list(targets.classes)
        self.temperature_ = 1.0
        self.history_: History = {"train_loss": [], "valid_loss": [], "valid_score": []}
        self.n_iter_ = 0

    def _held_out(self, target: Tensor) -> NDArray[np.bool_]:
        """Return which rows (n,) are kept from training, for early stopping and the temperature."""
        if not self.early_stopping:
            return np.zeros(len(target), dtype=bool)
        held_out = validation_rows(self._targets, target, self.validation_fraction, self._random)
        return held_out if held_out.sum() >= FEWEST_HELD_OUT else np.zeros_like(held_out)

    def _rows(self, features: Any, target: Tensor, weight: NDArray[np.float64]) -> Rows:
        device = self.device
        return Rows(as_features(features, device), target.to(device), torch.tensor(weight).float().to(device))

    def _threads(self) -> AbstractContextManager[None]:
        return threads_for([self.n_features_in_, *self.hidden_units, sum(self._targets.widths)], self.batch_size)

    def _seed(self) -> int:
        return int(self._random.randint(2**31 - 1))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed())

    @contextmanager
    def _dropout_generator(self) -> Iterator[None]:
        """Drop by this estimator's seed: dropout knows only torch's own generators, which are left as they were."""
        if not self.dropout:
            yield
            return
        with torch.random.fork_rng([self.device] if torch.device(self.device).type == "cuda" else []):
            torch.manual_seed(self._seed())
            yield

    def _build(self, counts: list[TargetCounts]) -> None:
        """Make the network, the loss and what trains them."""
        self._counts = counts
        widths = self._targets.widths
        class_weights = weights_of_classes(self.class_weight, self.task_, self._targets.classes, counts)
        self.loss_, criteria = criteria_for(self.loss, self.task_, counts, class_weights)
        network = perceptron(self.n_features_in_, self.hidden_units, sum(widths), self.dropout, self._generator())
        self.network_ = network.to(self.device)
        self.criterion_ = ColumnLoss(self.task_, criteria, widths).to(self.device)
        parameters = [parameter for part in self._parts().values() for parameter in part.parameters()]
        optimizer = AdamW(parameters, self.learning_rate, self.weight_decay)
        self._trainer = Trainer(self.network_, self.criterion_, optimizer)

    def _parts(self) -> dict[str, nn.Module]:
        return {"network": self.network_, "loss": self.criterion_}

    def _train(self, rows: Rows, held_out: Rows | None, epochs: int) -> None:
        with self._dropout_generator():
            self._trainer.train(
                rows,
                held_out,
                self.history_,
                batch_size=self.batch_size,
                epochs=epochs,
                stopping=EarlyStopping(self.patience, self.max_rise),
                order=self._generator(),
                verbose=bool(self.verbose),
            )
        self.n_iter_ = len(self.history_["train_loss"])
        weights_finite = all(bool(parameter.isfinite().all()) for parameter in self.network_.parameters())
        if not weights_finite or not np.isfinite(self.history_["train_loss"]).any():
            raise ValueError(
                "LogBalancedClassifier: the loss overflowed in training. Scale the features (a "
                f"StandardScaler before it) or lower learning_rate={self.learning_rate:g}."
            )
        # In the precision of training, which the buffers of the loss have.
        trained_logits = self._logits(rows.features, torch.float32)
        self.calibrations_ = [
            criterion.calibrate(logits, target, sample_weight=rows.weight)
            for criterion, logits, target in self.criterion_.columns(trained_logits, rows.target)
        ]
        self._set_temperature(self.temperature_)

    def _calibrate(self, held_out: Rows) -> None:
        """Choose thresholds and the temperature by the held-out rows."""
        columns = list(self.criterion_.columns(self._logits(held_out.features), held_out.target))
        for number, (criterion, logits, target) in enumerate(columns):
            if isinstance(criterion, TunedThreshold):
                # On the rows it was trained on a network is surer than it will be.
                self.calibrations_[number] = criterion.calibrate(logits, target, sample_weight=held_out.weight)
        posteriors = [
            (calibration.raw_scores(logits, "posterior"), target, calibration.multilabel)
            for calibration, (_, logits, target) in zip(self.calibrations_, columns, strict=True)
        ]
        self._set_temperature(likeliest_temperature(posteriors, held_out.weight))

    def _set_temperature(self, temperature: float) -> None:
        self.temperature_ = temperature
        for calibration in self.calibrations_:
            calibration.temperature.fill_(temperature)

    def _logits(self, features: Features, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the logits (n, all columns' classes) of the network as it is used, not as it is trained.

        In float32 a row's last digits depend on the rows it is computed with.
        """
        for module in self._parts().values():
            module.eval()
        weights = {name: tensor.to(dtype) for name, tensor in self.network_.state_dict().items()}
        size = max(1, min(INFERENCE_ROWS, INFERENCE_VALUES // self.n_features_in_))
        # Written into one tensor: many small ones, kept beside large ones that are freed, leave holes in the heap.
        logits = torch.empty(len(features), sum(self._targets.widths), dtype=dtype, device=self.device)
        with torch.no_grad():
            for start in range(0, len(features), size):
                part = features[start : start + size].to(dtype)
                logits[start : start + size] = functional_call(self.network_, weights, (part,))
        return logits

    def _column_logits(self, X: Any) -> list[tuple[Calibration, Tensor]]:
        """Return what each column's logits say, and the logits (n, C)."""
        check_is_fitted(self)
        logits = self._logits(as_features(read_features(self, X), self.device))
        return list(zip(self.calibrations_, torch.split(logits, self._targets.widths, 1), strict=True))


def _answer(columns: Sequence[Tensor]) -> Any:
    """Return the array of the only column, or a list of those of several."""
    arrays = [column.cpu().numpy() for column in columns]
    return arrays[0] if len(arrays) == 1 else arrays
