"""`equilog verify`: every claim holds, and every check fails where the losses are broken."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from equilog import article, cli, verify
from equilog.verify import experiments, of_ours, of_the_article
from equilog.verify.figures import draw

Function = Callable[..., Any]


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, broken: dict[str, Callable[[Function], Function]]) -> None:
    """Put broken functions in the place of those the checks call."""
    for name, wrap in broken.items():
        places = [place for place in (article, experiments, of_ours, of_the_article) if hasattr(place, name)]
        assert places, name
        for place in places:
            monkeypatch.setattr(place, name, wrap(getattr(place, name)))


def too_high(loss: Function) -> Function:
    return lambda *given, **options: 1.02 * loss(*given, **options)


def with_other_labels(loss: Function) -> Function:
    def broken(logits: Tensor, target: Tensor, *given: Any, **options: Any) -> Tensor:
        return loss(logits, target.roll(1, -1), *given, **options)

    return broken


def bent(loss: Function) -> Function:
    return lambda logits, *given, **options: loss(logits, *given, **options) - 0.1 * logits.sin().square().sum()


def always_compensated(loss: Function) -> Function:
    return lambda logits, target, **options: loss(logits, target, **{**options, "compensation": "weight", "pool": 3})


def half(result: Function) -> Function:
    return lambda *given, **options: 0.5 * result(*given, **options)


def as_good_as(other: Function) -> Callable[[Function], Function]:
    return lambda _: other


LOSSES = ("general", "log_balanced_cross_entropy", "loss_one", "loss_three", "multilabel_cross_entropy", "truncated")
BREAKS: dict[str, dict[str, Callable[[Function], Function]]] = {
    "ours too high": dict.fromkeys(("log_balanced_cross_entropy", "loss_one", "general", "truncated"), too_high),
    "other labels": dict.fromkeys(LOSSES, with_other_labels),
    "bent": dict.fromkeys(("log_balanced_cross_entropy", "loss_one", "multilabel_cross_entropy"), bent),
    "always compensated": {"log_balanced_cross_entropy": always_compensated},
    "half the posterior": dict.fromkeys(("posterior_scores", "probabilities", "scores", "multilabel_scores"), half),
    "loss-1 for everything": dict.fromkeys(
        ("loss_three", "softmax_cross_entropy_over_sets"), as_good_as(article.loss_one)
    ),
    "loss-3 for everything": dict.fromkeys(("loss_one",), as_good_as(article.loss_three)),
    "cross-entropy for everything": {"loss_one": as_good_as(article.softmax_cross_entropy_over_sets)},
    "half the minimum": {"minimum": half},
    "no difference seen": {"largest": lambda _: lambda _: 0.0},
    "no orders": {"truncated": lambda loss: lambda logits, target, _: loss(logits, target, 1)},
}


def test_every_claim_holds() -> None:
    results = list(verify.run())
    assert [result.name for result in results if not result.passed] == []
    assert len({result.name for result in results}) == len(results) == len(verify.CHECKS)
    assert all(result.statement.endswith(".") for result in results)


@pytest.mark.slow
def test_every_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    held = list(verify.CHECKS)
    for broken in BREAKS.values():
        with monkeypatch.context() as patched, experiments.one_thread():
            replace_everywhere(patched, broken)
            held = [check for check in held if check.measure().passed]
    assert [check.name for check in held] == []


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["equilog", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def fast_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "CHECKS", (of_the_article.loss_one_of_hard_targets, of_ours.rows_are_not_exact))


def test_json_has_the_promised_shape(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fast_checks(monkeypatch)
    assert run_cli(monkeypatch, "verify", "--json") == 0
    (first, second) = json.loads(capsys.readouterr().out)["checks"]
    assert set(first) == {"name", "value", "expected", "passed"}
    assert (first["name"], first["passed"]) == ("loss-one-of-hard-targets", True)
    assert second["value"] > 0.01


def test_a_broken_loss_fails_its_check_and_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_checks(monkeypatch)
    replace_everywhere(monkeypatch, {"loss_one": too_high})
    assert run_cli(monkeypatch, "verify") == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown
    assert "1 of 2 checks FAILED" in shown
    assert run_cli(monkeypatch, "verify", "--json") == 1
    passed = [check["passed"] for check in json.loads(capsys.readouterr().out)["checks"]]
    assert passed == [False, True]


def test_a_loss_that_is_nan_fails_and_its_json_stays_valid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_checks(monkeypatch)
    replace_everywhere(monkeypatch, {"loss_one": as_good_as(lambda *_: torch.tensor(math.nan))})
    assert verify.main(json=True) == 1
    printed = capsys.readouterr().out
    assert "NaN" not in printed
    assert json.loads(printed)["checks"][0] == {
        "name": "loss-one-of-hard-targets",
        "value": None,
        "expected": json.loads(printed)["checks"][0]["expected"],
        "passed": False,
    }


def test_the_table_numbers_every_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fast_checks(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    assert run_cli(monkeypatch, "verify") == 0
    shown = capsys.readouterr().out
    for number, check in enumerate(verify.CHECKS, 1):
        assert f"{number}   {check.statement}" in shown
    assert "2 checks, all passed" in shown


@pytest.mark.slow
def test_figures_are_drawn_and_reproducible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fast_checks(monkeypatch)
    assert run_cli(monkeypatch, "verify", "--figures", str(tmp_path / "once")) == 0
    draw(tmp_path / "twice")
    once = sorted((tmp_path / "once").iterdir())
    assert [path.name for path in once] == [
        "balance.svg",
        "posterior.svg",
        "separable.svg",
        "soft-targets.svg",
        "truncated.svg",
    ]
    for path in once:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes()


def test_figures_in_a_folder_that_cannot_be_made_are_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run_cli(monkeypatch, "verify", "--figures", str(tmp_path / "file")) == 2
    assert "--figures: cannot write" in capsys.readouterr().err.replace("\n", " ")


def test_figures_without_matplotlib_are_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "equilog.verify.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run_cli(monkeypatch, "verify", "--figures", str(tmp_path / "figures")) == 2
    assert "pip install 'equilog[figures]'" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def test_checks_leave_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    next(verify.run())
    assert torch.get_num_threads() == before
