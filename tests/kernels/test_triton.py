"""The Triton kernels where there is no GPU: run by the interpreter, compiled for GPUs that are not there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).with_name("test_triton_odds.py")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; it comes with equilog[dev] on Linux"
)


@needs_triton
@pytest.mark.slow
def test_interpreted_on_the_cpu() -> None:
    """In a process of its own: triton decides at import whether it compiles or interprets."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS)],
        cwd=TESTS.parents[2],
        env={**inherited, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^[5-9]\d passed|^\d{3,} passed", run.stdout, re.MULTILINE), run.stdout


def test_the_package_is_imported_without_triton() -> None:
    subprocess.run([sys.executable, "-c", "import equilog, sys; assert 'triton' not in sys.modules"], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=TESTS.parents[2], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("no GPU")


def compiled(kernel: Any, classes: int, score_type: str, capability: int) -> str:
    """Return the machine's assembly of a kernel for contiguous scores (n, classes), as a launch would ask for it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from equilog.kernels import triton_odds

    layout = triton_odds._layout(torch.empty(0, classes))
    options = {"num_warps": layout.pop("num_warps")}
    fixed = layout | {"column_stride": 1, "label_stride": 1, "upstream_stride": 1}
    fixed |= {"classes": 1, "row_stride": 1} if classes == 1 else {}
    wide = "*fp64" if score_type == "fp64" else "*fp32"
    types = dict.fromkeys(("log_odds", "peaks", "totals", "upstream"), wide)
    types |= {"z": f"*{score_type}", "gradient": f"*{score_type}", "labels": "*i64"}
    names = kernel.arg_names
    assert {*types, *fixed, "n", "classes", "row_stride"} >= set(names)
    return compile(
        ASTSource(
            kernel,
            {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names},
            {(names.index(name),): value for name, value in fixed.items() if name in names},
            {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name in types},
        ),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    ).asm["ptx"]


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("classes", "score_type", "capability"),
    [(1, "fp16", 80), (21, "fp64", 80), (21, "fp32", 90), (1000, "bf16", 90), (128256, "bf16", 90), (1000, "fp32", 80)],
)
def test_compiles_for_gpus(
    classes: int, score_type: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that begin at 16 bytes are read and written 16 bytes at a time."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from equilog.kernels import triton_odds

    odds = compiled(triton_odds._log_odds_kernel, classes, score_type, capability)
    gradient = compiled(triton_odds._gradient_kernel, classes, score_type, capability)
    assert "ld.global" in odds
    assert "st.global" in gradient
    if classes >= 1000:
        assert "ld.global.v4.b32" in odds
        assert "ld.global.v4.b32" in gradient
        assert "st.global.v4.b32" in gradient
