"""The folder of one comparison: what it was asked, every finished run, and what came out.

settings.json   what the runs depend on; going on with --resume under other settings is refused
runs.jsonl      one record a line, added as each run finishes, so that an interruption loses none
results.json, report.html, model/
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from equilog.compare.data.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.files import cannot_write, replacing
from equilog.compare.judge.records import Results, RunRecord


@dataclass(frozen=True)
class Store:
    """A comparison's folder."""

    folder: Path

    @classmethod
    def start(cls, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> "Store":
        """Return the store of a new comparison, or with `resume` of the one the folder holds.

        Args:
            folder: where the comparison is, or will be.
            settings: all that the runs depend on, in what JSON can hold; "fingerprint" is that of the data.
            resume: whether to go on with the comparison that is there.

        Raises:
            DataError: the folder holds another comparison, or none to resume, or cannot be written.
        """
        store = cls(folder)
        if resume:
            store._require_same(settings)
            store._end_torn_line()
        elif store._settings.exists():
            raise DataError(f"{folder} holds a comparison already. Go on with it by --resume, or choose another --out.")
        elif folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file, and the results need a folder. Choose another --out.")
        else:
            store._write(store._settings, settings)
        return store

    def runs(self) -> list[RunRecord]:
        """Return the finished runs by seed and loss, in whatever order they finished."""
        if not self._runs.exists():
            return []
        records: dict[tuple[int, str], RunRecord] = {}
        for line in self._runs.read_text(encoding="utf-8", errors="replace").splitlines():
            # A line cut short by a crash counts as not run.
            with suppress(json.JSONDecodeError):
                record = cast(RunRecord, json.loads(line))
                records[record["seed"], record["loss"]] = record
        return [records[key] for key in sorted(records)]

    def add(self, record: RunRecord) -> None:
        """Append a finished run.

        Raises:
            DataError: the folder cannot be written.
        """
        self._append(json.dumps(record, allow_nan=False))

    def finish(self, results: Results) -> Path:
        """Write results.json and return its path."""
        return self._write(self.folder / "results.json", results)

    def discard(self) -> None:
        """Take back a comparison without a finished run, so that its folder is free for another."""
        self._settings.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def _settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def _runs(self) -> Path:
        return self.folder / "runs.jsonl"

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        try:
            earlier = json.loads(self._settings.read_text(encoding="utf-8"))
            was = {name: earlier.get(name) for name in settings}
        except FileNotFoundError as error:
            raise DataError(f"{self.folder} holds no comparison to resume. Leave --resume out to start one.") from error
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{self._settings} cannot be read ({error}). Start again with another --out.") from error
        now = json.loads(json.dumps(settings))
        changed = [
            "the data are not the same" if name == "fingerprint" else f"{name} was {was[name]} and is now {now[name]}"
            for name in now
            if was[name] != now[name]
        ]
        if changed:
            raise DataError(
                f"The comparison in {self.folder} was started otherwise: {'; '.join(changed)}. Resume with the same "
                "data and options, or choose another --out."
            )

    def _end_torn_line(self) -> None:
        """End a line cut short by a crash, or it would swallow the next run."""
        if self._runs.exists() and not self._runs.read_bytes().endswith(b"\n"):
            self._append("")

    def _append(self, line: str) -> None:
        try:
            with self._runs.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise cannot_write(self._runs, error) from error

    def _write(self, path: Path, content: Mapping[str, Any]) -> Path:
        with replacing(path) as new:
            new.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        return path


def fingerprint(dataset: Dataset) -> str:
    """Return a digest of the features and targets, by which a resumed comparison knows its data again."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.target).tobytes())
    digest.update(pd.util.hash_pandas_object(dataset.features, index=False).to_numpy().tobytes())
    columns = tuple(dataset.features.columns)
    named = (columns, dataset.task, dataset.target_names, dataset.class_names, dataset.imbalance)
    digest.update(repr(named).encode())
    if dataset.split_column is not None:
        digest.update(dataset.split_column.values.tobytes())
    return digest.hexdigest()[:16]
