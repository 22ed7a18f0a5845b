"""Small real comparisons: handwritten digits made long-tailed, linear models trained epoch by epoch."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.class_weight import compute_sample_weight

from equilog.baselines.registry import Task
from equilog.compare.data.dataset import Dataset
from equilog.compare.judge.metrics import class_records, evaluate, reliability
from equilog.compare.judge.records import RunRecord

TEST_FRACTION = 0.4
EPOCHS = 6
LOSSES = ("cross-entropy", "class-weighted", "prior-corrected")
"""Cross-entropy, the same with each class weighing the same, and the same deciding without the log prior."""

Compare = Callable[..., tuple[Dataset, list[RunRecord]]]


@pytest.fixture(scope="session")
def compare() -> Compare:
    """Return a function that compares on digits: (task, losses, seeds, names) -> data set and records."""
    return compare_on_digits


def compare_on_digits(
    task: Task = "multiclass",
    losses: Sequence[str] = LOSSES,
    seeds: Iterable[int] = range(3),
    names: Sequence[str] = tuple("0123456789"),
    target_names: Sequence[str] = ("digit", "parity"),
) -> tuple[Dataset, list[RunRecord]]:
    pixels, target, sets = long_tailed_digits(task)
    dataset = Dataset(
        name="digits, long-tailed",
        task=task,
        features=pd.DataFrame(pixels),
        target=target,
        target_names=tuple(target_names[: len(sets)]),
        class_names=tuple(tuple(names[:size]) for size in sets),
        notes=("The pixels are divided by 16.",),
    )
    return dataset, [train(dataset, loss, seed) for seed in seeds for loss in losses]


def long_tailed_digits(task: Task) -> tuple[NDArray[np.float64], NDArray[np.generic], list[int]]:
    """Return pixels, targets and the number of classes of each target; 9 is twenty times as rare as 0."""
    pixels, digit = load_digits(return_X_y=True)
    keep = np.concatenate([np.flatnonzero(digit == c)[: int(178 * 20 ** (-c / 9))] for c in range(10)])
    kept, code = pixels[keep] / 16, digit[keep]
    if task == "soft":
        # What each digit looks like to its neighbours: a real distribution, most often not one-hot.
        neighbours = KNeighborsClassifier(15).fit(pixels / 16, digit)
        return kept, neighbours.predict_proba(kept), [10]
    if task == "multilabel":
        return kept, np.stack([code % 2, code >= 5, code % 3 == 0], axis=1).astype(np.int64), [3]
    return kept, np.stack([code, code % 2], axis=1), [10, 2]


def train(dataset: Dataset, loss: str, seed: int) -> RunRecord:
    pixels = dataset.features.to_numpy()
    rows = np.arange(len(pixels))
    strata = dataset.target[:, 0] if dataset.task == "multiclass" else None
    fit, test = train_test_split(rows, test_size=TEST_FRACTION, random_state=seed, stratify=strata)
    codes = dataset.target.argmax(1)[:, None] if dataset.task == "soft" else dataset.target
    weighted = loss == "class-weighted"
    fitted = [one_column(pixels[fit], column[fit], pixels[test], seed, weighted=weighted) for column in codes.T]
    posteriors = [posterior for posterior, _ in fitted]
    priors = [np.bincount(column[fit]) / len(fit) for column in codes.T]
    choices = [
        (posterior / prior if loss == "prior-corrected" else posterior).argmax(1)
        for posterior, prior in zip(posteriors, priors, strict=True)
    ]
    posterior, predicted = {
        "multiclass": (posteriors, np.stack(choices, axis=1)),
        "multilabel": (np.stack([p[:, 1] for p in posteriors], axis=1), np.stack(choices, axis=1)),
        "soft": (posteriors[0], choices[0]),
    }[dataset.task]
    truth = dataset.target[test]
    losses = np.mean([curve for _, curve in fitted], axis=0)
    return {
        "loss": loss,
        "seed": seed,
        "metrics": evaluate(dataset.task, truth, predicted, posterior),
        "classes": class_records(
            dataset.task, dataset.target[fit], truth, predicted, dataset.target_names, dataset.class_names
        ),
        "reliability": reliability(dataset.task, truth, predicted, posterior),
        "curve": {
            "train_loss": losses[:, 0].tolist(),
            "valid_loss": losses[:, 1].tolist(),
            "valid_score": losses[:, 2].tolist(),
        },
        "chosen": {},
        "seconds": 0.1,
    }


def one_column(
    pixels: NDArray[np.float64], codes: NDArray[np.int64], unseen: NDArray[np.float64], seed: int, *, weighted: bool
) -> tuple[NDArray[np.float64], list[list[float]]]:
    """Return probabilities of the unseen rows, and for each epoch the losses and the score on a held-out part."""
    model = SGDClassifier(loss="log_loss", alpha=1e-3, random_state=seed)
    fit, valid = slice(len(codes) // 5, None), slice(len(codes) // 5)
    weight = compute_sample_weight("balanced", codes[fit]) if weighted else None
    curve = []
    for _ in range(EPOCHS):
        model.partial_fit(pixels[fit], codes[fit], classes=np.unique(codes), sample_weight=weight)
        log_prob = [
            np.log(np.maximum(model.predict_proba(pixels[part]), 1e-12))[np.arange(len(codes[part])), codes[part]]
            for part in (fit, valid)
        ]
        curve.append([*(-part_log_prob.mean() for part_log_prob in log_prob), model.score(pixels[valid], codes[valid])])
    return model.predict_proba(unseen), curve


@pytest.fixture(scope="session")
def kinds() -> dict[str, Dataset]:
    """Three hundred digits with each kind of target: one column, two, labels, distributions."""
    return {kind: _digits_of(kind) for kind in ("multiclass", "columns", "multilabel", "soft")}


def _digits_of(kind: str) -> Dataset:
    task: Task = "multiclass" if kind == "columns" else kind  # type: ignore[assignment]
    pixels, target, _ = long_tailed_digits(task)
    digits, parity = tuple("0123456789"), ("even", "odd")
    names = {
        "multiclass": {"digit": digits},
        "columns": {"digit": digits, "parity": parity},
        "multilabel": {"properties": ("odd", "large", "divisible by 3")},
        "soft": {"digit": digits},
    }[kind]
    return Dataset(
        name=f"{kind}.csv",
        task=task,
        features=pd.DataFrame(pixels[::2]).rename(columns="pixel {}".format),
        target=target[::2, : len(names)] if task == "multiclass" else target[::2],
        target_names=tuple(names),
        class_names=tuple(names.values()),
    )
