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

HERE = Path(__file__).parent
TESTS = [*map(str, HERE.glob("*/test_triton.py")), str(HERE / "test_triton_loss.py")]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; it comes with equilog[dev] on Linux"
)


@needs_triton
@pytest.mark.slow
def test_interpreted_on_the_cpu() -> None:
    """In a process of its own: triton decides at import whether it compiles or interprets."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *TESTS],
        cwd=HERE.parents[1],
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
        [sys.executable, "-m", "benchmarks.gpu"], cwd=HERE.parents[1], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("no GPU")


def compiled(kernel: Any, types: dict[str, str], fixed: dict[str, Any], capability: int, **options: int) -> str:
    """Return a GPU's assembly of a kernel, as a launch would ask for it; what has no type is a 32-bit integer."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    return compile(
        ASTSource(
            kernel,
            {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names},
            {(names.index(name),): value for name, value in fixed.items() if name in names},
            {
                (index,): [["tt.divisibility", 16]]
                for index, name in enumerate(names)
                if types.get(name, "")[:1] == "*" and name not in fixed
            },
        ),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    ).asm["ptx"]


def pointers(names: str, to: str) -> dict[str, str]:
    """The type of each argument of these names: the address of numbers."""
    return dict.fromkeys(names.split(), f"*{to}")


def wide_of(score: str) -> str:
    """The type that scores are computed in."""
    return "fp64" if score == "fp64" else "fp32"


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


not_interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)


@needs_triton
@not_interpreted
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("classes", "score", "capability"),
    [(1, "fp16", 80), (21, "fp64", 80), (21, "fp32", 90), (1000, "bf16", 90), (128256, "bf16", 90), (1000, "fp32", 80)],
)
def test_log_odds_compile_for_gpus(classes: int, score: str, capability: int) -> None:
    """Rows that begin at 16 bytes are read and written 16 bytes at a time."""
    from equilog.ops.index_odds import triton

    types = pointers("log_odds peaks totals upstream slopes shift", wide_of(score)) | {"index": "*i64", "scale": "fp64"}
    types |= pointers("z gradient", score)
    fixed = triton._layout.__wrapped__(classes, classes, 1)
    warps = fixed.pop("num_warps")
    fixed |= {"column_stride": 1, "index_stride": 1, "upstream_stride": 1}
    fixed |= {"classes": 1, "row_stride": 1} if classes == 1 else {}
    fixed |= dict.fromkeys(("shift", "slopes", "ignored")) if classes > 1000 else {}  # without a prior, and by itself
    odds, gradient = (
        compiled(kernel, types, fixed, capability, num_warps=warps)
        for kernel in (triton._log_odds_kernel, triton._gradient_kernel)
    )
    assert "ld.global" in odds
    assert "st.global" in gradient
    if classes >= 1000:
        assert "ld.global.v4.b32" in odds
        assert "ld.global.v4.b32" in gradient
        assert "st.global.v4.b32" in gradient


@needs_triton
@not_interpreted
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(("slots", "value", "capability"), [(16, "fp32", 80), (32, "fp32", 90), (64, "fp64", 90)])
def test_log_sums_compile_for_gpus(slots: int, value: str, capability: int) -> None:
    from equilog.ops.sum_by_id import triton

    types = dict.fromkeys(("values", "peaks", "totals"), f"*{value}") | {"ids": "*i64"}
    fixed = {"ROWS": triton._TILE // slots, "SLOTS": slots, "value_stride": 1, "id_stride": 1}
    assert "atom" not in compiled(triton._sums_kernel, types, fixed, capability)


@pytest.mark.slow
@needs_triton
@not_interpreted
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(("size", "value", "capability"), [(16, "fp32", 80), (64, "fp64", 90)])
def test_logs_of_pools_compile_for_gpus(size: int, value: str, capability: int) -> None:
    from equilog.ops.index_logs import triton

    types = pointers("log_odds log_weight class_weight values held slopes", value) | {"index": "*i64"}
    fixed = {"POOLS": max(triton._COMPARISONS // size**2, 1), "SIZE": size, "index_stride": 1}
    fixed |= {"ignored": None} if size == 64 else {"log_weight": None, "class_weight": None}
    assert "st.global" in compiled(triton._logs_kernel, types, fixed, capability)


@pytest.mark.slow
@needs_triton
@not_interpreted
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("classes", "score", "inner", "capability"),
    [(21, "fp32", "power", 80), (32000, "bf16", "odds", 90), (1000, "fp32", "divergence", 90)],
)
def test_soft_odds_compile_for_gpus(classes: int, score: str, inner: str, capability: int) -> None:
    """Of probabilities, of indices that are smoothed, and of pools by id."""
    from equilog.ops.soft_odds import triton, triton_kernels

    wide, indexed = wide_of(score), classes == 32000
    types = pointers("log_weight of_sets log_sums residuals upstream", wide) | dict.fromkeys(
        ("scale", "smoothing"), "fp64"
    )
    types |= pointers("z gradient", score) | pointers("target", "i64" if indexed else score) | pointers("shift", wide)
    where = "order starts first_chunks slot_of_chunk ids"
    types |= pointers(where, "i64")
    fixed: dict[str, Any] = {
        "column_stride": 1,
        "target_column": 1,
        "RESIDUAL": inner != "divergence",
        "ROOTS": True,
        "INNER": inner,
    }
    fixed |= {"INDEXED": indexed, "SMOOTH": indexed}
    fixed |= {"shift": None} if classes == 21 else {}
    fixed |= dict.fromkeys(where.split()) if inner == "odds" else {}
    kernels = [triton_kernels.sums_kernel, triton_kernels.gradient_kernel]
    kernels += [triton_kernels.sets_kernel] if classes == 32000 else []
    for kernel in kernels:
        gradient_of = inner if kernel is triton_kernels.gradient_kernel else None
        layout = triton._layout.__wrapped__(classes, 64, 1, gradient_of)
        warps = layout.pop("num_warps")
        assert "st.global" in compiled(kernel, types, fixed | layout, capability, num_warps=warps)


@pytest.mark.slow
@needs_triton
@not_interpreted
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("labels", "score", "target", "inner", "capability"),
    [
        (32000, "bf16", "i8", "odds", 80),
        (80, "fp32", None, "odds", 90),
        (80, "fp32", "fp32", "divergence", 80),
        (1000, "bf16", "bf16", "power", 90),
    ],
)
def test_label_sums_compile_for_gpus(labels: int, score: str, target: str | None, inner: str, capability: int) -> None:
    """By a value a label, and where the target has none by the bits of named positives; and of pools by id."""
    from equilog.ops.label_sums import triton, triton_kernels

    wide, by_id = wide_of(score), inner == "power"
    types = pointers("parts of_pools log_sums upstream weight shift residuals", wide) | {"scale": "fp64"}
    types |= pointers("bits", "i32") | pointers("index", "i64") | (pointers("target", target) if target else {})
    types |= pointers("z gradient", score)
    where = "order starts first_chunks slot_of_chunk ids"
    types |= pointers(where, "i64")
    fixed = triton._layout.__wrapped__(labels, 1 if by_id else triton._TILE)
    fixed |= {"label_stride": 1, "target_label": 1, "weight_label": 1, "INNER": inner}
    options = {"num_warps": fixed.pop("num_warps")}
    fixed |= {"span": 1, "gradient_label": 1, "NUMBER": triton.offset_type(2**33 if by_id else 2**20)}
    fixed |= {"bits": None} if target else {"target": None}
    fixed |= {"weight": None, "shift": None} if labels == 80 else {}
    fixed |= {} if by_id else dict.fromkeys([*where.split(), "residuals"])
    for kernel in (triton_kernels.sums_kernel, triton_kernels.gradient_kernel):
        assert "st.global" in compiled(kernel, types, fixed, capability, **options)
    if not target:
        fixed = {"BLOCK": triton._BLOCK}
        assert "atom" in compiled(triton_kernels.bits_kernel, types, fixed, capability)


@pytest.mark.slow
@needs_triton
@not_interpreted
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(("classes", "score", "capability"), [(21, "fp32", 90), (3000, "bf16", 80)])
def test_pair_sums_compile_for_gpus(classes: int, score: str, capability: int) -> None:
    """In chunks of a slot, and where each slot is one; and by blocks of classes."""
    from equilog.ops.pair_sums import triton, triton_blocks

    wide = wide_of(score)
    types = pointers("log_weight shift peaks totals terms factors part_peaks part_totals", wide) | {"scale": "fp64"}
    types |= pointers("z gradient", score) | pointers("slot index block order starts first_chunks slot_of_chunk", "i64")
    fixed = triton.layout_of.__wrapped__(classes) | {"column_stride": 1, "slot_stride": 1}
    options = {"num_warps": fixed.pop("num_warps")}
    whole = {"first_chunks": None, "slot_of_chunk": None} if classes == 21 else {}
    kernels = [(triton._sums_kernel, whole), (triton.gradient_kernel, {"block": None}), (triton._together_kernel, {})]
    kernels += [(triton_blocks._blocks_kernel, {}), (triton.gradient_kernel, {})] if classes == 21 else []
    for kernel, without in kernels:
        assert "st.global" in compiled(kernel, types, fixed | without, capability, **options)
