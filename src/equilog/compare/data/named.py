"""Data sets by name, and the one door to all data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from equilog.compare.data import bundled
from equilog.compare.data.columns import require_columns
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.greek import greek
from equilog.compare.data.kinds import ChosenKind, typed_table
from equilog.compare.data.split_column import set_apart
from equilog.compare.data.tables import load_table
from equilog.compare.errors import DataError
from equilog.error_text import did_you_mean


@dataclass(frozen=True)
class NamedData:
    """What is known of a data set before it is loaded."""

    load: Callable[[], Dataset]
    summary: str


def load(
    name_or_path: str,
    *,
    target: Sequence[str] = (),
    multilabel: bool = False,
    soft: bool = False,
    encoding: str | None = None,
    kinds: Mapping[str, ChosenKind] | None = None,
    group: str | None = None,
    time: str | None = None,
) -> Dataset:
    """Load a data set of `NAMED`, or a file where there is one of that name or the name looks like a path.

    Args:
        name_or_path: a key of `NAMED`, or a path.
        target: the target columns of a file as in `load_table`; or those wanted of a named data set's several.
        multilabel: as in `load_table`.
        soft: as in `load_table`.
        encoding: as in `load_table`; of no effect on a named data set.
        kinds: as in `load_table`.
        group: as in `set_apart`, as is `time`.
        time: the column by which rows are earlier or later.

    Raises:
        DataError: for an unknown name, a package that is not installed, and whatever `load_table` and `set_apart`
            refuse.
    """
    if group is not None:
        # As text: 7 and 7a are two groups, and none is a gap among numbers.
        kinds = {group: "category", **(kinds or {})}
    dataset = _loaded(name_or_path, target, multilabel, soft, encoding, kinds)
    # The file's text took several times as much as its numbers do, and Arrow keeps what it has had.
    pa.default_memory_pool().release_unused()
    return set_apart(dataset, group=group, time=time)


def _loaded(
    name_or_path: str,
    target: Sequence[str],
    multilabel: bool,
    soft: bool,
    encoding: str | None,
    kinds: Mapping[str, ChosenKind] | None,
) -> Dataset:
    path = Path(name_or_path)
    if path.exists() or path.suffix or "/" in name_or_path or "\\" in name_or_path:
        return load_table(path, target=target, multilabel=multilabel, soft=soft, encoding=encoding, kinds=kinds)
    if name_or_path not in NAMED:
        raise DataError(
            f'"{name_or_path}" is neither a file nor the name of a data set. {did_you_mean(name_or_path, NAMED)}'
        )
    dataset = NAMED[name_or_path].load()
    for asked, option, task in ((multilabel, "--multilabel", "multilabel"), (soft, "--soft", "soft")):
        if asked and dataset.task != task:
            raise DataError(f"{name_or_path} is {dataset.task} data; leave {option} out.")
    if kinds:
        require_columns(dataset.features.columns, kinds, dataset.name)
        typed = typed_table(dataset.features, kinds=kinds)
        dataset = replace(dataset, features=typed.frame, columns=typed.columns, notes=(*dataset.notes, *typed.notes))
    return _choose(dataset, target) if target else dataset


def _choose(dataset: Dataset, target: Sequence[str]) -> Dataset:
    require_columns(dataset.target_names, target, dataset.name)
    if dataset.task != "multiclass":
        return dataset
    chosen = [dataset.target_names.index(name) for name in dict.fromkeys(target)]
    return replace(
        dataset,
        target=dataset.target[:, chosen],
        target_names=tuple(dataset.target_names[i] for i in chosen),
        class_names=tuple(dataset.class_names[i] for i in chosen),
    )


NAMED: dict[str, NamedData] = {
    "digits-lt": NamedData(
        bundled.digits, "1,797 handwritten digits of 8 x 8 pixels (scikit-learn), training rows thinned to a long tail"
    ),
    "yeast": NamedData(
        bundled.yeast, "2,417 yeast genes of 103 measurements, 14 labels (river; Elisseeff and Weston 2001)"
    ),
    "greek": NamedData(
        greek, "6,000 words of the Greek New Testament, nine grammatical attributes each (py-sblgnt; MorphGNT)"
    ),
    "vader": NamedData(
        bundled.vader,
        "7,506 English words, ten human ratings from -4 to 4 each (vaderSentiment; Hutto and Gilbert 2014)",
    ),
    "fashion-lt": NamedData(
        bundled.fashion,
        "15,000 garments of 28 x 28 pixels (Debian's dataset-fashion-mnist; Xiao et al. 2017), training rows "
        "thinned to a long tail",
    ),
}
"""The data sets known by name."""
