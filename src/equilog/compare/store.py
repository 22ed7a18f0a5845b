"""The folder of one comparison: what it was asked, every finished run, and what came out.

settings.json   what the runs depend on; going on with --resume under other settings is refused
runs.jsonl      one record a line, added as each run finishes, so that an interruption loses none
results.json, report.html, model/
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from equilog.compare.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.files import cannot_write, replacing
from equilog.compare.records import Results, RunRecord


@dataclass(frozen=True)
class Store:
    """A comparison's folder."""

    folder: Path

    @classmethod
    def start(cls, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> "Store":
        """Return the store of a new comparison, or with `resume` of the one the folder holds.

        Raises:
            DataError: the folder holds another comparison, or none to resume, or cannot be written.
        """
        store = cls(folder)
        if resume:
            store._require_same(settings)
        elif store._settings.exists():
            raise DataError(f"{folder} holds a comparison already. Go on with it by --resume, or choose another --out.")
        elif folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file, and the results need a folder. Choose another --out.")
        else:
            store._write(store._settings, settings)
        return store

    def runs(self) -> list[RunRecord]:
        """Return the finished runs. A line cut short by a crash counts as not run."""
        if not self._runs.exists():
            return []
        records = []
        for line in self._runs.read_text(encoding="utf-8").splitlines():
            try:
                records.append(cast(RunRecord, json.loads(line)))
            except json.JSONDecodeError:
                continue
        return records

    def add(self, record: RunRecord) -> None:
        """Append a finished run."""
        line = json.dumps(record, allow_nan=False)
        # A line cut short by a crash is ended first, or it would swallow this one.
        torn = self._runs.exists() and not self._runs.read_bytes().endswith(b"\n") and self._runs.stat().st_size
        try:
            with self._runs.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n" if torn else f"{line}\n")
        except OSError as error:
            raise cannot_write(self._runs, error) from error

    def finish(self, results: Results) -> Path:
        """Write results.json and return its path."""
        return self._write(self.folder / "results.json", results)

    @property
    def _settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def _runs(self) -> Path:
        return self.folder / "runs.jsonl"

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        if not self._settings.exists():
            raise DataError(f"{self.folder} holds no comparison to resume. Leave --resume out to start one.")
        earlier = json.loads(self._settings.read_text(encoding="utf-8"))
        changed = [name for name, value in json.loads(json.dumps(settings)).items() if earlier.get(name) != value]
        if changed:
            told = "; ".join(f"{name} was {earlier.get(name)}, now {settings[name]}" for name in changed)
            raise DataError(
                f"The comparison in {self.folder} was started otherwise: {told}. Resume with the same data and "
                "options, or choose another --out."
            )

    def _write(self, path: Path, content: Mapping[str, Any]) -> Path:
        with replacing(path) as new:
            new.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        return path


def fingerprint(dataset: Dataset) -> str:
    """Return a digest of the features and targets, by which a resumed comparison knows its data again."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.target).tobytes())
    digest.update(pd.util.hash_pandas_object(dataset.features, index=False).to_numpy().tobytes())
    digest.update(repr((tuple(dataset.features.columns), dataset.class_names, dataset.imbalance)).encode())
    return digest.hexdigest()[:16]
