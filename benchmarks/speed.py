"""Time each loss, forward and backward, as a ratio to torch's own on the same tensors: python benchmarks/speed.py.

One thread, float32, eager and compiled, the median of repeated measurements. The ratios are taken within one run, since
machines differ and so do moments. --json FILE writes them as data.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from equilog import __version__, log_balanced_cross_entropy, multilabel_cross_entropy

SHAPES = [(256, 10), (4096, 1000), (2048, 32000)]
"""Rows and classes."""
LABELS = [(256, 14), (512, 1000)]
"""Rows and labels."""

Loss = Callable[[Tensor, Tensor], Tensor]

OURS: dict[str, tuple[str, Loss]] = {
    "class balance, batch": ("index", log_balanced_cross_entropy),
    "class balance, pools of 16": ("index", lambda z, t: log_balanced_cross_entropy(z, t, pool=16)),
    "class balance, soft targets": ("soft", log_balanced_cross_entropy),
    "multi-label, sample": ("labels", multilabel_cross_entropy),
    "multi-label, batch": ("labels", lambda z, t: multilabel_cross_entropy(z, t, pool="batch")),
}
TORCH: dict[str, Loss] = {
    "index": F.cross_entropy,
    "soft": F.cross_entropy,
    "labels": F.binary_cross_entropy_with_logits,
}


def target(kind: str, rows: int, columns: int) -> Tensor:
    """Return a target of this kind for logits (rows, columns)."""
    if kind == "index":
        return torch.randint(columns, (rows,))
    if kind == "soft":
        return torch.randn(rows, columns).softmax(1)
    return (torch.rand(rows, columns) < 0.2).float()


def seconds(loss: Loss, logits: Tensor, goal: Tensor) -> float:
    """Return the median time of one forward and backward."""

    def step() -> None:
        logits.grad = None
        loss(logits, goal).backward()

    step()
    return Timer("step()", globals={"step": step}).blocked_autorange(min_run_time=0.5).median


def measure(shape: tuple[int, int], name: str) -> dict[str, object]:
    """Return the ratios of one loss to torch's at one shape."""
    kind, loss = OURS[name]
    torch.manual_seed(0)
    logits, goal = torch.randn(shape, requires_grad=True), target(kind, *shape)
    torch._dynamo.reset()
    baseline = seconds(TORCH[kind], logits, goal)
    return {
        "loss": name,
        "rows": shape[0],
        "columns": shape[1],
        "torch_ms": 1e3 * baseline,
        "eager": seconds(loss, logits, goal) / baseline,
        "compiled": seconds(torch.compile(loss, fullgraph=True), logits, goal) / baseline,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the ratios")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    with console.status("timing"):
        rows = [measure(shape, name) for name in OURS for shape in (LABELS if OURS[name][0] == "labels" else SHAPES)]
    table = Table(title=f"time of forward and backward over torch's (equilog {__version__}, torch {torch.__version__})")
    for heading in ("loss", "rows", "columns", "torch ms", "eager", "compiled"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    if options.json:
        machine = {"threads": 1, "processor": platform.processor() or platform.machine(), "torch": torch.__version__}
        options.json.write_text(json.dumps({"machine": machine, "ratios": rows}, indent=1))


if __name__ == "__main__":
    main()
