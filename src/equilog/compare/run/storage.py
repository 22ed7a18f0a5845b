"""Trained models as files that run no code when loaded.

Tensors and JSON, types of scikit-learn from a fixed list, and what other packages write of their trees.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes

from equilog.compare.run import boosters
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.models import Fitted, FittedEstimators, FittedNetwork
from equilog.compare.run.trees import require_sound_trees
from equilog.error_text import listed
from equilog.sklearn import LogBalancedClassifier

WEIGHTS, ESTIMATORS = "weights.safetensors", "estimators.skops"

TRUSTED_TYPES = [
    # Trees are followed by native code, so that `require_sound_trees` looks at them first.
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.utils._bunch.Bunch",
]
"""What skops.io.load must be told to trust beside what it trusts: arrays and scikit-learn's estimators."""


class NotStorableError(Exception):
    """A model cannot be stored so that loading it runs no code; says why."""


def why_not(estimators: list[Any]) -> str | None:
    """Return why classifiers of these types, fitted or not, cannot be stored, or None if they can."""
    _, reason = _dumped(estimators)
    return reason


def _dumped(estimators: list[Any]) -> tuple[bytes, str | None]:
    # skops takes more than a second to import, which the processes that only train should not spend.
    import skops.io

    if any(map(boosters.booster_of, estimators)):
        return b"", None
    try:
        data = skops.io.dumps(estimators)
        untrusted = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    except Exception as error:  # Of types that nobody has thought of.
        return b"", f"skops cannot store it ({type(error).__name__}: {error})"
    return data, f"it is made of {listed(untrusted)}, and to load that runs its code" if untrusted else None


def write(model: Fitted, folder: Path) -> dict[str, Any]:
    """Write a trained model to a folder and return what JSON is to keep of it.

    Raises:
        NotStorableError: it is made of what cannot be loaded again without running code.
    """
    if isinstance(model, FittedNetwork):
        try:
            tensors, config = model.model.to_state()
        except ValueError as error:
            raise NotStorableError("it predicts by the scores or calibrate of its loss, which are code") from error
        # safetensors' own files are for their owner alone; a model is to be handed on.
        (folder / WEIGHTS).write_bytes(as_bytes(tensors))
        return {"classifier": config}
    assert isinstance(model, FittedEstimators)
    described = {
        "known": [classes.tolist() for classes in model.known],
        "shares": [share.tolist() for share in model.shares],
        "balanced": model.balanced,
        "task": model.names.task,
    }
    fits = list(model.fits)
    booster = next(filter(None, map(boosters.booster_of, fits)), None)
    if booster is not None:
        try:
            described["booster"] = boosters.write(fits, booster, folder)
        except Exception as error:  # What a package says of a classifier that its user has changed.
            raise NotStorableError(f"{booster.package} cannot store it ({error})") from error
        return {"estimators": described}
    data, reason = _dumped(fits)
    if reason is not None:
        raise NotStorableError(reason)
    (folder / ESTIMATORS).write_bytes(data)
    return {"estimators": described}


def parts_of(described: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that hold the model which JSON describes."""
    if "estimators" not in described:
        return [WEIGHTS]
    booster = described["estimators"].get("booster")
    return [ESTIMATORS] if booster is None else [file["name"] for file in booster["files"] if file is not None]


def read(described: Mapping[str, Any], folder: Path) -> tuple[Fitted, TargetNames]:
    """Return the model that `write` wrote, and what its targets are called.

    Raises:
        UntrustedTypesFoundException: other types than those that are written.
        DataError: it needs a package that is not installed, or another version of it.
    """
    targets, classes = tuple(described["targets"]), tuple(map(tuple, described["classes"]))
    if "classifier" in described:
        model = LogBalancedClassifier.from_state(load_file(folder / WEIGHTS), described["classifier"])
        names = TargetNames(model.task_, targets, classes)
        return FittedNetwork(model, names), names
    config = described["estimators"]
    names = TargetNames(config["task"], targets, classes)
    fits = _loaded(folder) if "booster" not in config else boosters.read(config["booster"], folder)
    if not len(fits) == len(config["known"]) == (len(classes[0]) if names.task == "multilabel" else len(classes)):
        raise ValueError(f"{len(fits)} estimators for {len(config['known'])} targets")
    return (
        FittedEstimators(
            tuple(fits),
            tuple(np.asarray(known, dtype=np.int64) for known in config["known"]),
            tuple(np.asarray(share, dtype=np.float64) for share in config["shares"]),
            config["balanced"],
            names,
        ),
        names,
    )


def _loaded(folder: Path) -> list[Any]:
    import skops.io

    fits: list[Any] = skops.io.load(folder / ESTIMATORS, trusted=TRUSTED_TYPES)
    require_sound_trees(fits)
    return fits
