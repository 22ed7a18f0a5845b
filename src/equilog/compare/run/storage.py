"""Trained models as files that run no code when loaded: tensors, JSON, and types of scikit-learn from a fixed list."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes

from equilog.compare.errors import DataError
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.models import Fitted, FittedEstimators, FittedNetwork
from equilog.sklearn import LogBalancedClassifier

WEIGHTS, ESTIMATORS = "weights.safetensors", "estimators.skops"

TREES = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"

TRUSTED_TYPES = [TREES]
"""What skops.io.load must be told to trust beside what it trusts: arrays and scikit-learn's estimators."""


def write(model: Fitted, folder: Path) -> dict[str, Any]:
    """Write a trained model to a folder and return what JSON is to keep of it.

    Raises:
        DataError: its types are not among those that are loaded again.
    """
    if isinstance(model, FittedNetwork):
        tensors, config = model.model.to_state()
        # safetensors' own files are for their owner alone; a model is to be handed on.
        (folder / WEIGHTS).write_bytes(as_bytes(tensors))
        return {"classifier": config}
    assert isinstance(model, FittedEstimators)
    import skops.io

    data = skops.io.dumps(list(model.fits))
    if untrusted := set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES):
        raise DataError(f"it cannot be stored so that loading runs no code: {', '.join(sorted(untrusted))}")
    (folder / ESTIMATORS).write_bytes(data)
    return {
        "estimators": {
            "known": [classes.tolist() for classes in model.known],
            "shares": [share.tolist() for share in model.shares],
            "balanced": model.balanced,
            "task": model.names.task,
        }
    }


def part_of(described: Mapping[str, Any]) -> str:
    """Return the name of the file that holds the model which JSON describes."""
    return ESTIMATORS if "estimators" in described else WEIGHTS


def read(described: Mapping[str, Any], folder: Path) -> tuple[Fitted, TargetNames]:
    """Return the model that `write` wrote, and what its targets are called.

    Raises:
        UntrustedTypesFoundException: other types than those that are written.
    """
    targets, classes = tuple(described["targets"]), tuple(map(tuple, described["classes"]))
    if "classifier" in described:
        model = LogBalancedClassifier.from_state(load_file(folder / WEIGHTS), described["classifier"])
        names = TargetNames(model.task_, targets, classes)
        return FittedNetwork(model, names), names
    import skops.io

    config = described["estimators"]
    names = TargetNames(config["task"], targets, classes)
    fits = skops.io.load(folder / ESTIMATORS, trusted=TRUSTED_TYPES)
    for fit in fits:
        _require_sound_trees(fit)
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


def _require_sound_trees(fit: Any) -> None:
    """Raise ValueError where a tree leads out of itself: its native code follows the numbers of a file unchecked."""
    for step in getattr(fit, "_predictors", None) or ():
        for tree in step:
            nodes = tree.nodes
            inner = ~nodes["is_leaf"].astype(bool)
            at = np.arange(len(nodes))[inner]
            for side in ("left", "right"):
                follows = nodes[side][inner].astype(np.int64)
                if ((follows <= at) | (follows >= len(nodes))).any():
                    raise ValueError("a tree whose branches lead nowhere")
            read = nodes["feature_idx"][inner].astype(np.int64)
            if ((read < 0) | (read >= fit.n_features_in_)).any() or nodes["is_categorical"].any():
                raise ValueError("a tree that reads other columns than there are")
