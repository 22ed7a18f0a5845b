"""Probabilities for other class frequencies than those they were learnt with, known or not.

All of it assumes that only the frequencies of the classes change and the rows of each class stay what they are (label
shift): $P'(x \\mid k) = P(x \\mid k)$.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.optimize import nnls
from scipy.special import expit
from scipy.stats import norm

from equilog.decisions.inputs import (
    Array,
    ArrayOrTensor,
    Codes,
    as_classes,
    as_labels,
    as_numpy,
    as_prior,
    as_probabilities,
)
from equilog.decisions.recalibration import log_probabilities, recalibrate_classes, recalibrate_labels

TOLERANCE = 1e-9
"""EM ends when no frequency moves by more."""

STEPS = 10_000

PSEUDO_ROWS = 5.0
"""Rows in the old frequencies that EM counts with the new ones, so that no class is ruled out by a few rows."""

LEAST_INFORMATION = 0.01
"""Share of the information of labelled rows below which unlabelled ones are said not to tell two classes apart."""

DRAWS = 400
"""Draws of the mean probabilities, from which the interval of the confusion matrix's solution is read."""


def adapt(probabilities: ArrayOrTensor, *, old_prior: Any, prior: Any, multilabel: bool = False) -> Any:
    r"""Return the probabilities as they would be had the classes other frequencies.

    $$ P'(k \mid x) \propto P(k \mid x)\, \frac{\pi'_k}{\pi_k} $$

    Args:
        probabilities: (n, C), rows summing to 1, or (n, L) of yes; an array, or a tensor of any device.
        old_prior: (C,) class frequencies, or counts, that the probabilities were learnt with, above 0; for labels the
            frequency of yes (L,), in (0, 1). Or an object that has them as `.prior`.
        prior: the new ones in the same form, where 0 may be.
        multilabel: the columns are yes/no labels.

    Returns:
        Probabilities of the same shape; a tensor on its device where one came, else a float64 array.

    Raises:
        ValueError, TypeError: an argument is not as described.

    Limits: where the probabilities are wrong, so is what is made of them. Nothing changes where both priors agree.

    Source: Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
    Neural Computation 14 (2002), equation 2.4.

    Example:
        >>> adapt([[0.8, 0.2]], old_prior=[0.8, 0.2], prior=[0.5, 0.5])
        array([[0.5, 0.5]])
        >>> adapt(torch.tensor([[0.9, 0.2]]), old_prior=[0.5, 0.2], prior=[0.1, 0.5], multilabel=True)
        tensor([[0.5000, 0.5000]])
    """
    values = as_probabilities("adapt", probabilities, multilabel=multilabel)
    columns = values.shape[1]
    old = as_prior("adapt", "old_prior", old_prior, columns, multilabel=multilabel)
    new = as_prior("adapt", "prior", prior, columns, multilabel=multilabel, positive=False)
    return _weighted(values, new / old, (1 - new) / (1 - old) if multilabel else None)


def undo_sampling(probabilities: ArrayOrTensor, sampling_rate: ArrayOrTensor) -> Any:
    r"""Return the probabilities of the data as they were before some classes were over- or under-sampled.

    $$ P(k \mid x) \propto P_s(k \mid x) / r_k $$

    Args:
        probabilities: (n, C) of a classifier trained on the sampled rows.
        sampling_rate: (C,) rows of each class after sampling over rows before, above 0; only their ratios count.

    Returns:
        Probabilities of the same shape; a tensor on its device where one came, else a float64 array.

    Raises:
        ValueError, TypeError: an argument is not as described.

    Source: Dal Pozzolo et al., "Calibrating probability with undersampling for unbalanced classification", SSCI 2015,
    equation 4, for any number of classes.

    Example:
        A tenth of class 0 was kept, all of class 1:

        >>> undo_sampling([[0.5, 0.5]], [0.1, 1.0]).round(3)
        array([[0.909, 0.091]])
    """
    values = as_probabilities("undo_sampling", probabilities, multilabel=False)
    rate = as_prior("undo_sampling", "sampling_rate", sampling_rate, values.shape[1], multilabel=False)
    return _weighted(values, 1 / rate, None)


def _weighted(values: Any, yes: Array, no: Array | None) -> Any:
    """Return p_k w_k, each row summing to 1, or for labels each p beside its own 1 - p."""
    like = values.new_tensor if isinstance(values, torch.Tensor) else np.asarray
    weighted = values * like(yes)
    total = weighted.sum(1)[:, None] if no is None else weighted + (1 - values) * like(no)
    if (total <= 0).any():
        raise ValueError(
            "adapt: a row has probability 0 for every class of the new prior, so nothing is left of it. Give each "
            "class that may come up a prior above 0."
        )
    return weighted / total


@dataclass(frozen=True)
class PriorEstimate:
    """Class frequencies of unlabelled rows, which `adapt` takes as its `prior`."""

    prior: Array
    """(C,), summing to 1; for labels the frequency of yes (L,)."""
    interval: Array
    """(C, 2) or (L, 2), lower and upper ends."""
    method: str
    """"em" or "confusion"."""


def estimate_prior(
    probabilities: ArrayOrTensor,
    old_prior: Any,
    *,
    method: Literal["em", "confusion"] = "em",
    calibration: tuple[ArrayOrTensor, ArrayOrTensor] | None = None,
    multilabel: bool = False,
    confidence: float = 0.95,
) -> PriorEstimate:
    r"""Return the class frequencies of unlabelled rows.

    "em" maximises the likelihood of the rows, $\sum_i \log \sum_k \pi'_k P(k \mid x_i) / \pi_k$, which is concave, with
    five rows in the old frequencies counted with them. It uses all that calibrated probabilities say, and is as wrong
    as they are; with `calibration` they are corrected first. "confusion" solves
    $\sum_k E[p_j \mid k]\, \pi'_k = E'[p_j]$ with the mean probabilities of each class's labelled rows from before: it
    needs no right probabilities, only that the classifier errs as before, and varies more.

    Args:
        probabilities: (n, C) of the new rows, or (n, L) of yes.
        old_prior: (C,) frequencies that the probabilities were learnt with, above 0, or (L,) of yes, in (0, 1); or an
            object that has them as `.prior`.
        method: "em" or "confusion".
        calibration: probabilities (m, C) of labelled rows from before the change that the classifier was not trained
            on, and their classes (m,); or (m, L) and labels (m, L). "confusion" needs them, "em" is better for them.
        multilabel: the columns are yes/no labels, each estimated alone.
        confidence: of the interval, in (0, 1).

    Returns:
        The estimate; its interval is of the normal approximation of the likelihood for "em" (cut off at 0 and 1), of
        draws of all means for "confusion". Neither knows of probabilities that are wrong.

    Raises:
        ValueError, TypeError: an argument is not as described.

    Warns:
        UserWarning: the rows tell some classes hardly apart, so that their shares are a guess; it names them.

    Source: EM: Saerens, Latinne, Decaestecker, Neural Computation 14 (2002), section 2.2, after the
    correction that Alexandari, Kundaje, Shrikumar found it to need, ICML 2020. Confusion matrix: Lipton,
    Wang, Smola, "Detecting and correcting for label shift with black box predictors", ICML 2018,
    here by least squares among shares of at least 0.

    Example:
        >>> rows = [[0.9, 0.1]] * 60 + [[0.2, 0.8]] * 40
        >>> found = estimate_prior(rows, [0.5, 0.5])
        >>> found.prior.round(3), found.interval[1].round(2)
        (array([0.721, 0.279]), array([0.14, 0.42]))
    """
    name = "estimate_prior"
    if not 0 < confidence < 1:
        raise ValueError(f"{name}: confidence must lie between 0 and 1, such as 0.95; got {confidence}.")
    if method not in ("em", "confusion"):
        raise ValueError(f'{name}: method must be "em" or "confusion"; got {method!r}.')
    values = as_numpy(as_probabilities(name, probabilities, multilabel=multilabel)).astype(np.float64)
    columns = values.shape[1]
    old = as_prior(name, "old_prior", old_prior, columns, multilabel=multilabel)
    if method == "confusion" and calibration is None:
        raise ValueError(
            f'{name}: method="confusion" needs calibration=(probabilities, y), labelled rows from before the change; '
            'without any, method="em" goes by the probabilities alone.'
        )
    if calibration is not None:
        before = as_numpy(as_probabilities(name, calibration[0], multilabel=multilabel)).astype(np.float64)
        if before.shape[1] != columns:
            raise ValueError(
                f"{name}: calibration and probabilities must have the same columns; got {before.shape[1]} and "
                f"{columns}."
            )
        check = as_labels if multilabel else as_classes
        truth = check(name, calibration[1], *before.shape)
        correct = _correction(before, truth)
        values, before = correct(values), correct(before)
    found = []
    for column in range(columns) if multilabel else [slice(None)]:
        rows = _both_answers(values[:, column]) if multilabel else values
        frequency = np.array([1 - old[column], old[column]]) if multilabel else old
        if calibration is not None:
            seen = _both_answers(before[:, column]) if multilabel else before
        if method == "em":
            found.append(
                _by_likelihood(rows, frequency, seen.mean(0) if calibration is not None else frequency, confidence)
            )
        else:
            found.append(_by_confusion(rows, seen, truth[:, column] if multilabel else truth, confidence))
    if multilabel:
        return PriorEstimate(
            np.array([prior[1] for prior, _ in found]), np.array([interval[1] for _, interval in found]), method
        )
    return PriorEstimate(*found[0], method)


def _correction(before: Array, truth: Codes) -> Callable[[Array], Array]:
    """Return what corrects probabilities as labelled rows ask for."""
    weight = np.ones(len(truth))
    if truth.ndim == 2:
        of_labels = recalibrate_labels(before, truth, weight)
        return lambda values: np.asarray(expit(of_labels.of_labels(values)))
    of_classes = recalibrate_classes(log_probabilities(before), truth, weight)
    return lambda values: np.exp(of_classes.of_classes(log_probabilities(values)))


def _both_answers(probability: Array) -> Array:
    return np.column_stack([1 - probability, probability])


def _by_likelihood(values: Array, old: Array, spoken: Array, confidence: float) -> tuple[Array, Array]:
    # Corrected probabilities speak of the frequencies in the rows they were corrected by, chance included.
    ratio = values / spoken
    prior = old.copy()
    for _ in range(STEPS):
        before = prior
        # The sum of the posteriors under the present prior; it cannot lower the likelihood.
        prior = (prior * (ratio / (ratio @ prior)[:, None]).sum(0) + PSEUDO_ROWS * old) / (len(values) + PSEUDO_ROWS)
        if abs(prior - before).max() < TOLERANCE:
            break
    rows, classes = values.shape
    gradient = ratio / (ratio @ prior)[:, None]
    # Frequencies move along directions that sum to 0; there the information is inverted.
    tangent = np.linalg.svd(np.ones((1, classes)))[2][1:]
    information = tangent @ (gradient.T @ gradient) @ tangent.T
    held = np.maximum(prior, 1 / rows)
    labelled = rows * tangent @ np.diag(1 / held) @ tangent.T
    share, directions = eigh(information, labelled)
    if share[0] < LEAST_INFORMATION:
        _warn(tangent.T @ directions[:, 0])
    covariance = tangent.T @ np.linalg.pinv(information, hermitian=True) @ tangent
    reach = norm.ppf(0.5 + confidence / 2) * np.sqrt(np.diag(covariance).clip(0.0))
    return prior, np.column_stack([prior - reach, prior + reach]).clip(0.0, 1.0)


def _by_confusion(values: Array, before: Array, truth: Codes, confidence: float) -> tuple[Array, Array]:
    classes = values.shape[1]
    count = np.bincount(truth, minlength=classes)
    if (count == 0).any():
        missing = np.flatnonzero(count == 0).tolist()
        raise ValueError(
            f"estimate_prior: calibration must have rows of every class; class {missing} has none, so nobody knows "
            'what the classifier makes of it. Give such rows, or take method="em".'
        )
    of_class = [before[truth == k] for k in range(classes)]
    rates, predicted = np.column_stack([rows.mean(0) for rows in of_class]), values.mean(0)
    _, size, right = np.linalg.svd(rates)
    if size[-1] < LEAST_INFORMATION**0.5:
        _warn(right[-1])
    prior = _shares(rates, predicted)
    generator = np.random.default_rng(0)
    tables = np.stack([_drawn_means(rows, generator) for rows in of_class], axis=2)
    drawn = np.array([_shares(*pair) for pair in zip(tables, _drawn_means(values, generator), strict=True)])
    ends = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0).T
    return prior, np.asarray(ends)


def _drawn_means(values: Array, generator: np.random.Generator) -> Array:
    """Return draws of the mean of rows like these (DRAWS, C), by their covariance; one row does not vary."""
    rows, classes = values.shape
    covariance = np.cov(values.T) / rows if rows > 1 else np.zeros((classes, classes))
    return generator.multivariate_normal(values.mean(0), covariance, size=DRAWS, method="svd").clip(0.0)


def _shares(rates: Array, predicted: Array) -> Array:
    """Return the frequencies of at least 0 that explain the predictions best, by least squares."""
    solved = nnls(rates, predicted)[0]
    return np.asarray(solved / solved.sum())


def _warn(direction: Array) -> None:
    """Name the two classes that are confused the most along a direction."""
    first, second = int(direction.argmax()), int(direction.argmin())
    warnings.warn(
        f"estimate_prior: the rows hardly tell classes {first} and {second} apart, so how they share their frequency "
        "is a guess; what they have together is not. See the interval.",
        UserWarning,
        stacklevel=4,
    )
