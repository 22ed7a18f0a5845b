"""The folder of a comparison: what it keeps through a crash, and what it refuses to mix."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equilog.compare.data.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.files import replacing
from equilog.compare.judge.records import RunRecord
from equilog.compare.run.store import Store, fingerprint

SETTINGS = {"equilog": "1.0", "data": "rows.csv", "fingerprint": "abc", "max_epochs": 5, "hidden_units": (8, 4)}


@pytest.fixture(scope="session")
def records(compare) -> list[RunRecord]:
    return compare(seeds=range(2))[1]


def by_run(records: list[RunRecord]) -> list[RunRecord]:
    return sorted(records, key=lambda record: (record["seed"], record["loss"]))


def test_runs_come_back_whole_and_by_seed_whatever_order_they_ended_in(records, tmp_path):
    store = Store.start(tmp_path / "new" / "folder", SETTINGS, resume=False)
    assert store.runs() == []
    for record in reversed(records):
        store.add(record)
    resumed = Store.start(tmp_path / "new" / "folder", SETTINGS, resume=True)
    assert store.runs() == resumed.runs() == by_run(records)


def test_a_line_cut_short_by_a_crash_counts_as_not_run(records, tmp_path):
    store = Store.start(tmp_path, SETTINGS, resume=False)
    for record in records:
        store.add(record)
    lines = tmp_path / "runs.jsonl"
    whole = lines.read_bytes()
    for cut in (1, 2, 500):
        lines.write_bytes(whole[:-cut])
        lost = 0 if cut == 1 else 1
        assert store.runs() == by_run(records[: len(records) - lost])
        resumed = Store.start(tmp_path, SETTINGS, resume=True)
        resumed.add(records[-1])
        assert resumed.runs() == by_run(records)


def test_lines_that_a_dying_disk_left_are_not_runs(records, tmp_path):
    store = Store.start(tmp_path, SETTINGS, resume=False)
    store.add(records[0])
    with (tmp_path / "runs.jsonl").open("ab") as file:
        file.write(b"\x00\x00\xff\xfe\n\n")
    store.add(records[1])
    assert store.runs() == by_run(records[:2])


def test_a_run_noted_twice_counts_once(records, tmp_path):
    store = Store.start(tmp_path, SETTINGS, resume=False)
    store.add(records[0])
    store.add(records[0])
    assert store.runs() == records[:1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("equilog", "1.1", "equilog was 1.0 and is now 1.1"),
        ("data", "other.csv", r"data was rows\.csv and is now other\.csv"),
        ("fingerprint", "abd", "the data are not the same"),
        ("max_epochs", 6, "max_epochs was 5 and is now 6"),
        ("hidden_units", (8, 5), r"hidden_units was \[8, 4\] and is now \[8, 5\]"),
        ("patience", 3, "patience was None and is now 3"),
    ],
)
def test_going_on_under_other_settings_is_refused(tmp_path, name, value, message):
    Store.start(tmp_path, SETTINGS, resume=False)
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(DataError, match=message):
        Store.start(tmp_path, {**SETTINGS, name: value}, resume=True)
    assert (tmp_path / "settings.json").read_bytes() == before


def test_a_comparison_is_not_overwritten(tmp_path):
    Store.start(tmp_path, SETTINGS, resume=False)
    with pytest.raises(DataError, match=r"holds a comparison already.*--resume"):
        Store.start(tmp_path, SETTINGS, resume=False)


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(DataError, match="holds no comparison to resume"):
        Store.start(tmp_path / "nothing", SETTINGS, resume=True)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"equilog": ', "\x00"])
def test_damaged_settings_are_told(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(DataError, match=r"settings\.json cannot be read"):
        Store.start(tmp_path, SETTINGS, resume=True)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_an_unwritable_folder_is_told_before_anything_runs(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="--out"):
        Store.start(tmp_path / place, SETTINGS, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_runs_that_cannot_be_noted_are_told(records, tmp_path):
    store = Store.start(tmp_path, SETTINGS, resume=False)
    (tmp_path / "runs.jsonl").mkdir()
    with pytest.raises(DataError, match=r"Cannot write .*runs\.jsonl"):
        store.add(records[0])


def test_a_discarded_comparison_leaves_its_folder_free(tmp_path):
    store = Store.start(tmp_path / "folder", SETTINGS, resume=False)
    store.discard()
    assert not (tmp_path / "folder").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    Store.start(tmp_path / "kept", SETTINGS, resume=False).discard()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]


CHANGES: dict[str, Callable[[Dataset], dict[str, Any]]] = {
    "a value": lambda data: {"features": data.features.replace(data.features.iloc[0, 10], -1.0)},
    "an order of rows": lambda data: {"features": data.features.iloc[::-1]},
    "a column's name": lambda data: {"features": data.features.rename(columns={"pixel 1": "pixel one"})},
    "a target": lambda data: {"target": np.roll(data.target, 1)},
    "a class's name": lambda data: {"class_names": (("zero", *data.class_names[0][1:]),)},
    "a target's name": lambda _: {"target_names": ("number",)},
    "the thinning": lambda _: {"imbalance": 5.0},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_tells_other_data(kinds, change):
    dataset = kinds["multiclass"]
    assert fingerprint(dataset) == fingerprint(replace(dataset, features=dataset.features.copy()))
    assert fingerprint(dataset) != fingerprint(replace(dataset, **CHANGES[change](dataset)))


def test_a_file_that_fails_half_way_leaves_the_earlier_one(tmp_path):
    def write() -> None:
        with replacing(tmp_path / "results.json") as new:
            new.write_text("half of")
            raise ZeroDivisionError

    (tmp_path / "results.json").write_text("whole")
    with pytest.raises(ZeroDivisionError):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"results.json": "whole"}


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "far" / "results.json")
    with replacing(link) as new:
        new.write_text(json.dumps(1))
    assert link.is_symlink()
    assert (tmp_path / "far" / "results.json").read_text() == "1"


def test_a_folder_is_replaced_by_a_folder_and_never_by_a_file(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(DataError, match="Cannot write"), replacing(folder) as new:
        new.write_text("a file")
    assert (folder / "old").read_text() == "old"
    with replacing(folder) as new:
        new.mkdir()
        (new / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_devices_stay_devices():
    with pytest.raises(DataError, match="neither a file nor a folder"), replacing(Path("/dev/null")):
        pass
    assert Path("/dev/null").is_char_device()
