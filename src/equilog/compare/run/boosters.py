"""Gradient boosting of other packages as files of their own formats, which hold trees and numbers and no code."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equilog.compare.errors import DataError


@dataclass(frozen=True)
class Booster:
    """How one package's classifier is written and read."""

    estimator: str
    """The type of the classifier; a subclass of a user's may do more than its trees tell."""
    package: str
    ending: str
    write: Callable[[Any, Path], object]
    """(fitted classifier, file) -> nothing."""
    read: Callable[[Any, bytes], Any]
    """(the package, what the file holds) -> something with predict_proba."""


@dataclass(frozen=True)
class Trees:
    """LightGBM's trees, which its own classifier cannot be made of again."""

    booster: Any

    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities (n, C) of the classes."""
        said = self.booster.predict(X, num_threads=1)
        return np.column_stack([1 - said, said]) if said.ndim == 1 else said


def _xgboost(package: Any, data: bytes) -> Any:
    classifier = package.XGBClassifier(n_jobs=1)
    classifier.load_model(bytearray(data))
    return classifier


BOOSTERS = (
    Booster(
        "LGBMClassifier",
        "lightgbm",
        "txt",
        lambda fit, path: fit.booster_.save_model(str(path)),
        lambda package, data: Trees(package.Booster(model_str=data.decode())),
    ),
    Booster("XGBClassifier", "xgboost", "ubj", lambda fit, path: fit.save_model(str(path)), _xgboost),
    Booster(
        "CatBoostClassifier",
        "catboost",
        "cbm",
        lambda fit, path: fit.save_model(str(path)),
        lambda package, data: package.CatBoostClassifier().load_model(blob=data),
    ),
)


def booster_of(estimator: Any) -> Booster | None:
    """Return how a classifier is written, if it is of one of the packages."""
    made_by = type(estimator).__module__.partition(".")[0], type(estimator).__name__
    return next((one for one in BOOSTERS if (one.package, one.estimator) == made_by), None)


def write(fits: list[Any], booster: Booster, folder: Path) -> dict[str, Any]:
    """Write the fitted classifiers to a file each, None to none, and return what JSON is to keep of them.

    Raises:
        ValueError: a file does not say what the classifier does, since something beside its trees decides.
    """
    package = import_module(booster.package)
    files: list[dict[str, str] | None] = []
    for number, fit in enumerate(fits):
        if fit is None:
            files.append(None)
            continue
        path = folder / f"estimator-{number}.{booster.ending}"
        booster.write(fit, path)
        data = path.read_bytes()
        rows = _rows(fit.n_features_in_)
        if not np.allclose(booster.read(package, data).predict_proba(rows), fit.predict_proba(rows), atol=1e-6):
            raise ValueError(f"{booster.package}'s file of it does not predict as it does")
        # LightGBM ends the whole process at a file that is cut short.
        files.append({"name": path.name, "sha256": checksum(data)})
    return {"package": booster.package, "version": package.__version__, "files": files}


def read(described: dict[str, Any], folder: Path) -> list[Any]:
    """Return what `write` wrote.

    Raises:
        DataError: the package is not installed, or cannot read what another version of it wrote.
        ValueError: a file is not as it was written.
    """
    booster = next(one for one in BOOSTERS if one.package == described["package"])
    wanted = f"{booster.package}=={described['version']}"
    try:
        package = import_module(booster.package)
    except Exception as error:  # Each has its own when a library of the system's is missing.
        raise DataError(
            f"{folder} needs {booster.package}, which cannot be imported ({error}): pip install {wanted}"
        ) from error
    fits: list[Any] = []
    for file in described["files"]:
        if file is None:
            fits.append(None)
            continue
        data = (folder / Path(file["name"]).name).read_bytes()
        if checksum(data) != file["sha256"]:
            raise ValueError(f"{file['name']} is not as it was written")
        try:
            fits.append(booster.read(package, data))
        except Exception as error:
            raise DataError(
                f"{folder} was written by {wanted}, and {package.__version__} cannot read it ({error}): "
                f"pip install {wanted}"
            ) from error
    return fits


def checksum(data: bytes) -> str:
    """Return what tells a file from every other."""
    return sha256(data).hexdigest()


def _rows(features: int) -> NDArray[np.float32]:
    """Return rows to try a classifier on: whole numbers, of which many are 0, and others."""
    rows = np.random.default_rng(0).normal(size=(32, features))
    rows[::2] = rows[::2].round()
    return rows.astype(np.float32)
