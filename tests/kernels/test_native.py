"""The C++ kernels as a library: when it is built, where it is kept, and what happens where it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from equilog import kernels, log_balanced_cross_entropy
from equilog.kernels.native import build
from equilog.kernels.native.call import has_kernels

needs_compiler = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")

STEP = """
import torch, equilog
from equilog.kernels.native.build import library
logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
loss = equilog.log_balanced_cross_entropy(logits, torch.arange(64) % 5)
loss.backward()
print(library() is not None, round(loss.item(), 4), round(logits.grad.abs().sum().item(), 4))
"""


ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("CXX", "EQUILOG_NATIVE")}


def a_step(cache: Path, **environment: str) -> tuple[str, str]:
    """What a new process prints of a step, and what it says besides."""
    run = subprocess.run(
        [sys.executable, "-c", STEP],
        env={**ENVIRONMENT, "XDG_CACHE_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip(), run.stderr.strip()


@needs_compiler
def test_kernels_are_built_once_and_give_what_the_rest_gives(tmp_path: Path) -> None:
    first, said = a_step(tmp_path)
    built = {path: path.stat().st_mtime_ns for path in (tmp_path / "equilog").iterdir()}
    assert (first.split()[0], said) == ("True", "")
    assert len(built) == 1
    assert a_step(tmp_path) == (first, "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "equilog").iterdir()} == built
    without, _ = a_step(tmp_path, EQUILOG_NATIVE="0")
    assert without.split() == ["False", *first.split()[1:]]


@needs_compiler
def test_processes_that_build_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", STEP], env={**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path)}, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert [run.communicate()[0].split()[0] for run in runs] == [b"True"] * 3
    assert len(list((tmp_path / "equilog").iterdir())) == 1


def test_a_compiler_that_fails_is_told_of_and_done_without(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'out of registers' >&2\nexit 1\n")
    compiler.chmod(0o755)
    found, said = a_step(tmp_path, CXX=str(compiler))
    assert found.split()[0] == "False"
    assert "does without its compiled CPU kernels: out of registers" in said
    assert not list((tmp_path / "equilog").iterdir())  # nothing half-written stays behind


def test_without_a_compiler_nothing_is_said(tmp_path: Path) -> None:
    found, said = a_step(tmp_path, PATH=str(tmp_path))
    assert (found.split()[0], said) == ("False", "")


def test_a_cache_that_cannot_be_written_is_told_of_and_done_without(tmp_path: Path) -> None:
    (tmp_path / "equilog").write_text("in the way")
    found, said = a_step(tmp_path)
    assert found.split()[0] == "False"
    assert "does without its compiled CPU kernels" in said or not has_kernels()


@needs_compiler
def test_another_compiler_or_flag_has_a_library_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = build._compiler()
    assert compiler is not None
    name = build._fingerprint(compiler)
    assert name == build._fingerprint(compiler)
    assert name != build._fingerprint([*compiler, "-mno-avx2"])
    monkeypatch.setattr(build, "_FLAGS", [*build._FLAGS, "-g"])
    assert name != build._fingerprint(compiler)


@needs_compiler
@pytest.mark.parametrize("shape", [(4096, 21), (3, 100_000), (1, 5)])
def test_threads_do_not_change_the_log_odds(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator).requires_grad_()
    labels = torch.randint(shape[1], shape[:1], generator=generator)

    def found() -> list[torch.Tensor]:
        log_odds = kernels.log_odds_against_label(scores, labels)
        return [log_odds, *torch.autograd.grad(log_odds.sum(), scores)]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = found()
        torch.set_num_threads(4)
        assert all(map(torch.equal, alone, found()))
    finally:
        torch.set_num_threads(threads)


@needs_compiler
@pytest.mark.parametrize("balance", ["class", "pair"])
@pytest.mark.parametrize(("n", "classes"), [(60, 2), (200, 16), (300, 21)])
def test_prior_and_scale_are_those_of_float64(n: int, classes: int, balance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator)
    target = torch.randint(classes, (n,), generator=generator)
    prior = torch.rand(classes, generator=generator) + 0.1
    for scale, strength in ((0.5, 1.0), (3.0, -2.0)):
        found = []
        for z in (logits.clone().requires_grad_(), logits.double().requires_grad_()):
            loss = log_balanced_cross_entropy(
                z, target, balance=balance, prior=prior, prior_strength=strength, scale=scale
            )
            (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
            (again,) = torch.autograd.grad(gradient.square().sum(), z)
            found.append((loss.detach().double(), gradient.detach().double(), again.double()))
        torch.testing.assert_close(found[0][:2], found[1][:2], rtol=2e-5, atol=2e-6)
        # Differences of terms that nearly cancel.
        torch.testing.assert_close(found[0][2], found[1][2], rtol=2e-2, atol=2e-4 * float(found[1][2].abs().max()))


@needs_compiler
def test_a_prior_may_be_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(40, 3, generator=generator), torch.randint(3, (40,), generator=generator)
    slopes = []
    for dtype in (torch.float32, torch.float64):
        prior = torch.tensor([0.5, 0.3, 0.2], dtype=dtype, requires_grad=True)
        log_balanced_cross_entropy(logits.to(dtype), target, prior=prior).backward()
        slopes.append(prior.grad.double())
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_no_scores_are_made_of_a_prior() -> None:
    logits = torch.randn(1000, 200, requires_grad=True)
    target = torch.randint(200, (1000,))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        log_balanced_cross_entropy(logits, target, prior=torch.rand(200) + 0.1, scale=2.0).backward()
    made = [event.nbytes() for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert sum(size >= logits.nbytes // 2 for size in made) == 1  # the gradient


@needs_compiler
def test_tables_of_any_strides_are_read() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(40, 60, generator=generator)
    labels = torch.randint(20, (80,), generator=generator)[::2]
    for scores in (table[:, 5:25], table.T[:40, :20], table[:, :40:2], table[:1, :20].expand(40, 20)):
        scores = scores.detach().requires_grad_()
        log_odds = kernels.log_odds_against_label(scores, labels)
        (gradient,) = torch.autograd.grad(log_odds.sum(), scores)
        copied = scores.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        expected = kernels.log_odds_against_label(copied, labels)
        assert torch.equal(log_odds, expected)
        assert torch.equal(gradient, torch.autograd.grad(expected.sum(), copied)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
def test_compiled_once_for_all_sizes() -> None:
    """The number of sets is no multiple of the pool's size when it is compiled anew, with kernels and without."""
    loss = torch.compile(log_balanced_cross_entropy, fullgraph=True, dynamic=True)
    generator = torch.Generator().manual_seed(0)
    for n, classes in ((4000, 30), (5001, 40), (90, 5), (6001, 30)):
        found = []
        logits = torch.randn(n, classes, generator=generator)
        target = torch.randint(classes, (n,), generator=generator)
        for way in (loss, log_balanced_cross_entropy):
            z = logits.clone().requires_grad_()
            value = way(z, target, pool=16)
            found.append((value.detach(), torch.autograd.grad(value, z)[0]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
