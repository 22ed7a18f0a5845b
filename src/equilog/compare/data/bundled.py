"""Data sets that come inside packages: read from there, no download, the same rows everywhere."""

import gzip
import json
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from equilog.compare.data.dataset import Dataset
from equilog.compare.errors import DataError

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""

FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

RATINGS = range(-4, 5)
"""The scale on which the ten raters of VADER placed a word."""


def digits() -> Dataset:
    """Handwritten digits of scikit-learn, rare from 0 to 9."""
    images = load_digits(as_frame=True)
    return _long_tailed("digits-lt", images.data, images.target.rename("digit"), list("0123456789"), 50)


def fashion() -> Dataset:
    """Fashion-MNIST, the first 1,500 of each garment in the training file, rare from the first class to the last."""
    pixels = _idx("train-images-idx3-ubyte.gz", header=16).reshape(-1, 28 * 28)
    labels = pd.Series(_idx("train-labels-idx1-ubyte.gz", header=8), name="garment")
    rows = labels.groupby(labels).head(1500).index
    names = [f"pixel_{row}_{column}" for row in range(28) for column in range(28)]
    return _long_tailed("fashion-lt", pd.DataFrame(pixels[rows], columns=names), labels[rows], FASHION_CLASSES, 100)


def _long_tailed(
    name: str, features: pd.DataFrame, codes: pd.Series, classes: Sequence[str], imbalance: int
) -> Dataset:
    return Dataset(
        name=name,
        task="multiclass",
        features=features,
        target=codes.to_numpy(np.int64)[:, None],
        target_names=(str(codes.name),),
        class_names=(tuple(classes),),
        notes=(
            f"The training rows of every split are thinned so that {classes[0]} is {imbalance} times as frequent "
            f"as {classes[-1]}, the others falling from one to the other; the test rows stay balanced.",
        ),
        imbalance=imbalance,
    )


def _idx(name: str, header: int) -> NDArray[np.uint8]:
    try:
        with gzip.open(FASHION_FOLDER / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)
    except OSError as error:
        raise DataError(
            f"fashion-lt reads {FASHION_FOLDER / name}, which cannot be opened. On Debian or Ubuntu: "
            "apt install dataset-fashion-mnist"
        ) from error


def yeast() -> Dataset:
    """Genes of yeast and the functions of each."""
    frame = pd.read_csv(package("river.datasets", "yeast").Yeast().path)
    labels = [name for name in frame.columns if name.startswith("Class")]
    return Dataset(
        name="yeast",
        task="multilabel",
        features=frame.drop(columns=labels),
        target=frame[labels].to_numpy(np.int64),
        target_names=("functions",),
        class_names=(tuple(labels),),
    )


def vader() -> Dataset:
    """The words of the VADER lexicon and how ten people rated each."""
    lexicon = files(package("vaderSentiment", "vader")) / "vader_lexicon.txt"
    lines = [line.split("\t") for line in lexicon.read_text(encoding="utf-8").splitlines()]
    words = pd.DataFrame({"word": [line[0] for line in lines], "ratings": [json.loads(line[3]) for line in lines]})
    # A word listed twice would be in the training and the test rows.
    once = words.drop_duplicates("word", ignore_index=True)
    votes = np.array([[ratings.count(rating) for rating in RATINGS] for ratings in once["ratings"]])
    return Dataset(
        name="vader",
        task="soft",
        features=once[["word"]],
        target=votes / votes.sum(axis=1, keepdims=True),
        target_names=("rating",),
        class_names=(tuple(str(rating) for rating in RATINGS),),
        notes=(f"{len(words) - len(once)} words listed twice were taken once.",),
    )


def package(module: str, name: str) -> Any:
    """Return the module that the data set `name` comes in.

    Raises:
        DataError: where it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(f"{name} needs the package {module.split('.')[0]}: pip install 'equilog[data]'") from error
