"""The benchmark of speed measures what it says; how fast anything is, no test asks."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.speed import report
from benchmarks.speed.__main__ import measure, setting
from benchmarks.speed.contenders import OURS, multilabel_by_subtraction, peers
from benchmarks.speed.measure import peak_bytes

from equilog import multilabel_cross_entropy


def test_peak_is_that_of_what_lives_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            first = torch.ones(1000)
            second = first + 1
            del first
            second.sum()
            del second

    assert peak_bytes(step) == pytest.approx(8000, abs=64)


def test_the_published_form_is_ours_where_it_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    target = (torch.rand(7, 5, generator=generator) < 0.4).double()
    ours = multilabel_cross_entropy(logits, target, reduction="sum") / len(logits)
    torch.testing.assert_close(multilabel_by_subtraction(logits, target), ours, rtol=1e-12, atol=0)


def test_every_contender_is_measured_and_reported(tmp_path: Path) -> None:
    options = Namespace(device="cpu", rounds=1, seconds=1e-4)
    others, missing = peers()
    rows = [
        row
        for kind in ("index", "soft", "labels")
        for row in measure(kind, (6, 5), [*OURS, *others], options, compiled=False)
    ]
    assert {row["loss"] for row in rows} >= {each.name for each in [*OURS, *others]}
    assert all(row["time"] > 0 and row["peak"] > 0 for row in rows)
    growth = [row | {"by": by} for row in rows if row["kind"] == "index" for by in ("rows", "classes")]
    step = {"model": "MLP", "loss": "ours", "step_ms": 1.0, "share_of_loss": 0.1}
    result = {
        "setting": setting("cpu"),
        "not measured": missing,
        "losses": rows,
        "growth": growth,
        "from hidden states": [{"loss": "ours", "chunk_rows": 128, "time": 1.0, "peak": 0.3}],
        "training steps": [step],
    }
    report.write(tmp_path, result)
    page = (tmp_path / "speed.md").read_text()
    assert "| multi-label, batch | 6 × 5 |" in page
    assert "torch " + torch.__version__ in page
    assert (tmp_path / "speed.svg").read_text().startswith("<?xml")
