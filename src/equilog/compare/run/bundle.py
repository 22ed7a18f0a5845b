"""A fitted model on disk: a folder of files none of which can run code when loaded.

model.json            names of targets and classes, the decision, and what the model says of itself
weights.safetensors   every tensor of a network and its loss; or
estimators.skops      the fitted estimators of scikit-learn; or
estimator-0.ubj, ...  for each target the trees of XGBoost; of LightGBM .txt, of CatBoost .cbm
preprocessor.skops    the fitted preprocessing, loaded with a fixed list of trusted types
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equilog._version import __version__
from equilog.compare.data.columns import require_columns
from equilog.compare.data.features import TRUSTED_TYPES, used_columns
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.errors import DataError
from equilog.compare.files import replacing
from equilog.compare.run import storage
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.decisions import from_config, to_config
from equilog.compare.run.drift import drift, prior_shift
from equilog.compare.run.one_run import FittedContender

FORMAT = 4
"""Raised when a model folder changes in a way that an older reader would misread."""

DESCRIPTION, PREPROCESSOR = "model.json", "preprocessor.skops"


@dataclass(frozen=True)
class Bundle:
    """A fitted preprocessor and contender, and what their outputs are called."""

    preprocessor: Preprocessor
    model: FittedContender
    names: TargetNames
    identifiers: tuple[str, ...] = ()
    """Columns that name the rows and that the model does not read."""
    shares: tuple[tuple[float, ...], ...] = ()
    """For each target the frequency of each class in training."""
    contender: str = ""
    """What the contender is called."""

    def complete(self, features: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """Return the rows with the columns that they lack, all missing, and the names of these."""
        lacking = [name for name in used_columns(self.preprocessor) if name not in features.columns]
        return features.assign(**dict.fromkeys(lacking, np.nan)), lacking

    def drift(self, features: pd.DataFrame, predictions: pd.DataFrame) -> list[str]:
        """Return a sentence for each way in which new rows differ from those of training.

        Args:
            features: the rows.
            predictions: what `predictions` returned for them.
        """
        said = drift(self.preprocessor, features)
        if not self.shares:
            return said
        targets, classes = self.names.targets, self.names.classes
        widths = np.cumsum([len(names) for names in classes])
        posterior = np.split(predictions.iloc[:, -int(widths[-1]) :].to_numpy(np.float64), widths[:-1], axis=1)
        exclusive = self.names.task != "multilabel"
        return said + prior_shift(posterior, self.shares, targets, classes, exclusive=exclusive)

    def predictions(self, features: pd.DataFrame, source: str) -> pd.DataFrame:
        """Return, a row each, the predicted classes and the balanced and posterior probability of every class.

        One target column T with class K gives columns "T", "balanced T=K" and "posterior T=K"; a label L of a
        multi-label model "L", "balanced L" and "posterior L".

        Raises:
            DataError: a column that the model was trained on is missing; `source` names the data.
        """
        require_columns(features.columns, used_columns(self.preprocessor), source)
        inputs = self.preprocessor.transform(features)
        task, targets, classes = self.names.task, self.names.targets, self.names.classes
        answers = self.model.answers(inputs)
        columns: list[tuple[str, NDArray[np.generic]]]
        if task == "multilabel":
            columns = list(zip(classes[0], answers.decided[0].T, strict=True))
        else:
            columns = [
                (target, np.asarray(labels, dtype=object)[codes])
                for target, labels, codes in zip(targets, classes, answers.decided, strict=True)
            ]
        for kind, probabilities in (("balanced", answers.balanced), ("posterior", answers.posterior)):
            columns += [
                (f"{kind} {label if task == 'multilabel' else f'{target}={label}'}", column)
                for target, labels, probs in zip(targets, classes, probabilities, strict=True)
                for label, column in zip(labels, probs.T, strict=True)
            ]
        names, values = zip(*columns, strict=True)
        # The names go on last: two that read the same are still two columns.
        return pd.DataFrame(dict(enumerate(values)), index=features.index).set_axis(list(names), axis=1)


def save(bundle: Bundle, folder: Path) -> Path:
    """Write the model folder, whole or not at all, in place of an earlier one, and return it.

    Raises:
        DataError: the folder cannot be written, or holds something else.
        NotStorableError: the model is made of what cannot be loaded again without running code.
    """
    # skops takes more than a second to import, which the processes that only train should not spend.
    import skops.io

    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise DataError(f"{folder} holds something other than a model and is left as it is. Choose another --out.")
    decisions = bundle.model.decisions
    described = {
        "format": FORMAT,
        "equilog": __version__,
        "targets": bundle.names.targets,
        "classes": bundle.names.classes,
        "identifiers": bundle.identifiers,
        "shares": bundle.shares,
        "contender": bundle.contender,
        "decisions": None if decisions is None else [to_config(decision) for decision in decisions],
    }
    with replacing(folder) as new:
        new.mkdir()
        described |= storage.write(bundle.model.model, new)
        (new / DESCRIPTION).write_text(json.dumps(described, indent=1, allow_nan=False), encoding="utf-8")
        skops.io.dump(bundle.preprocessor, new / PREPROCESSOR)
    return folder


def load(folder: Path) -> Bundle:
    """Read a model folder that `save` wrote.

    Raises:
        DataError: it is not such a folder, is damaged, holds types that are not trusted, or needs a package that is
            not installed.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    for name in (DESCRIPTION, PREPROCESSOR):
        _require_part(folder, name)
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise DataError(
                f"{folder} is a model of format {described['format']} (equilog {described['equilog']}); this version "
                f"reads format {FORMAT}. Use that version, or run the comparison again."
            )
        for name in storage.parts_of(described):
            _require_part(folder, name)
        model, names = storage.read(described, folder)
        decisions = described["decisions"]
        bundle = Bundle(
            skops.io.load(folder / PREPROCESSOR, trusted=TRUSTED_TYPES),
            FittedContender(model, None if decisions is None else tuple(map(from_config, decisions))),
            names,
            tuple(described["identifiers"]),
            tuple(map(tuple, described["shares"])),
            described["contender"],
        )
        # Each part may be sound and yet not fit the others: a row of missing values goes through all of them.
        columns = used_columns(bundle.preprocessor)
        bundle.predictions(pd.DataFrame(None, index=[0], columns=columns, dtype=object), "")
    except UntrustedTypesFoundException as error:
        raise DataError(f"{folder} was not written by equilog and is not loaded: {error}") from error
    except DataError:
        raise
    except Exception as error:  # What a damaged file trips over could be anything.
        raise DataError(f"{folder} is a damaged model: {type(error).__name__}: {error}") from error
    return bundle


def _require_part(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise DataError(f"{folder} is no model: it has no {name}. Give the folder model/ that `equilog compare` wrote.")
