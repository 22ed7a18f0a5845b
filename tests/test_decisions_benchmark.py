"""The benchmark of decisions on the smallest of its tasks."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.decisions.__main__ import main
from benchmarks.decisions.contenders import CLASS_METRICS, Case
from benchmarks.decisions.report import BEGIN, END
from benchmarks.decisions.tasks import TASKS, split


@pytest.mark.slow
def test_page_gets_tables_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "decisions.md"
    page.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = ["--splits", "2", "--tasks", "flares", "--resume", str(tmp_path / "done"), "--write", str(tmp_path)]
    main(arguments)
    written = page.read_text()
    assert written.startswith("# Before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    assert "Worse than argmax beyond the noise" in written
    assert all(f"| {metric} |" in written for metric in CLASS_METRICS)
    assert (tmp_path / "decisions.svg").stat().st_size > 0
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["flares-0.json", "flares-1.json"]
    assert "| EM |" in capsys.readouterr().out


def test_rows_of_a_task_are_shared_out_once_and_in_proportion() -> None:
    task = next(task for task in TASKS if task.name == "segments")
    parts = list(vars(split(task, 0)).values())
    rows = np.concatenate([features for features, _ in parts])
    assert len(rows) == len(np.concatenate([target for _, target in parts]))
    shares = [np.bincount(target, minlength=7) / len(target) for _, target in parts]
    # A class has its share of each part up to one row.
    assert abs(shares[0] - shares[2]).max() <= 1 / 200
    again, other = split(task, 0), split(task, 1)
    np.testing.assert_array_equal(again.test[0], parts[2][0])
    assert not np.array_equal(other.test[0], parts[2][0])


def test_costs_are_one_for_the_most_frequent_class() -> None:
    prior = np.array([0.1, 0.7, 0.2])
    case = Case("costs", prior, labels=False)
    assert case.costs is not None
    assert prior @ case.costs[:, 1] == pytest.approx(1.0)
    np.testing.assert_array_equal(np.diag(case.costs), 0.0)
