"""Whether the trees of a file lead nowhere but into themselves: scikit-learn's native code follows them unchecked."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree._tree import Tree


def require_sound_trees(thing: Any, columns: int = 0, *, checked: bool = True) -> None:
    """Raise ValueError where a tree, anywhere in a thing, leads out of itself or reads columns that are not there.

    Args:
        thing: an estimator, or a container of such.
        columns: how many columns its holder reads.
        checked: whether it looks at how many columns it is handed; the trees of a forest do not.
    """
    if isinstance(thing, Tree):
        inner = np.flatnonzero(thing.children_left != -1)
        sides = thing.children_left[inner], thing.children_right[inner]
        _require_sound(inner, sides, thing.node_count, thing.feature[inner], columns)
        return
    if isinstance(thing, TreePredictor):
        inner = np.flatnonzero(~thing.nodes["is_leaf"].astype(bool))
        nodes = thing.nodes[inner]
        _require_sound(inner, (nodes["left"], nodes["right"]), len(thing.nodes), nodes["feature_idx"], columns)
        if nodes["is_categorical"].any():
            raise ValueError("a tree that reads other columns than there are")
        return
    parts: Iterable[Any]
    if isinstance(thing, np.ndarray):
        parts = thing.ravel().tolist() if thing.dtype == object else ()
    elif isinstance(thing, list | tuple | dict):
        parts = thing.values() if isinstance(thing, dict) else thing
    else:
        parts = getattr(thing, "__dict__", {}).values()
        read = getattr(thing, "__dict__", {}).get("n_features_in_")
        if read is not None:
            if not checked and read != columns:
                raise ValueError(f"trees of {read} columns in a forest of {columns}")
            columns, checked = read, not isinstance(thing, BaseForest | BaseGradientBoosting)
    for part in parts:
        require_sound_trees(part, columns, checked=checked)


def _require_sound(
    inner: NDArray[Any], sides: Iterable[NDArray[Any]], nodes: int, read: NDArray[Any], columns: int
) -> None:
    for follows in sides:
        follows = follows.astype(np.int64)
        if ((follows <= inner) | (follows >= nodes)).any():
            raise ValueError("a tree whose branches lead nowhere")
    read = read.astype(np.int64)
    if ((read < 0) | (read >= columns)).any():
        raise ValueError("a tree that reads other columns than there are")
