"""The results file: one line of JSON a training, written as it ends, so that a run can be cut short and taken up."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.task import Task

Record = dict[str, Any]


@dataclass(frozen=True, order=True)
class Key:
    """What a training is known by."""

    task: str
    version: int
    setting: str
    seed: int
    learning_rate: float
    weight_decay: float

    @classmethod
    def of(cls, record: Record) -> "Key":
        """Return the key of a record."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


class Store:
    """The finished trainings of a results file; there may be none yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[Key, Record] = {Key.of(record): record for record in _lines(path)}

    def add(self, key: Key, record: Record) -> None:
        """Write a finished training down. A file that was cut in the middle of a line goes on in a new one."""
        whole = {**vars(key), **record}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and not _ends_in_newline(self.path):
                file.write(b"\n")
            file.write(json.dumps(whole, separators=(",", ":")).encode() + b"\n")
        self.records[key] = whole

    def of(self, task: Task) -> dict[str, dict[int, list[Record]]]:
        """Return the records of a task as it is now, {setting: {seed: [record for each learning rate and decay]}}."""
        found: dict[str, dict[int, list[Record]]] = {}
        for key, record in self.records.items():
            if (key.task, key.version) == (task.name, task.version):
                found.setdefault(key.setting, {}).setdefault(key.seed, []).append(record)
        return found


def _lines(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was killed


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
