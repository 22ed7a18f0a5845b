"""Time the hard loss on a GPU beside torch's cross-entropy and a plain copy: python -m benchmarks.gpu, from the root.

For each size: forward and backward over eager F.cross_entropy's time, and over Liger's where it is installed; the share
of a copy's bandwidth, counting the two readings of the logits and the writing of their gradient that the loss cannot do
without; and peak memory over the logits. --json FILE also writes them as data. Without a GPU it says so and stops.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.measure import forward_and_backward, peak_bytes, ratios
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from equilog import __version__, log_balanced_cross_entropy

SIZES = [
    (8192, 128256, torch.bfloat16),
    (1_000_000, 21, torch.bfloat16),
    (1_000_000, 21, torch.float32),
    (4096, 1000, torch.float32),
    (256, 10, torch.float32),
]
"""Rows, classes and type of the logits."""
BASELINE = "torch cross_entropy"
HEADINGS = ("loss", "size", "ms", "over torch", "over Liger", "share of copy bandwidth", "peak / logits")


def measure(
    rows: int, classes: int, dtype: torch.dtype, device: str, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return the time, share of bandwidth and peak memory of each loss at one size."""
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, dtype=dtype, device=device).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator, device=device)
    baseline = forward_and_backward(F.cross_entropy, logits, target)
    steps = {"log-balanced, batch": forward_and_backward(log_balanced_cross_entropy, logits, target)}
    if importlib.util.find_spec("triton"):
        from equilog.ops.index_odds.triton import index_log_odds

        # What of it is the kernels'; the rest is a few numbers a row and a class.
        steps["its two kernels"] = forward_and_backward(lambda z, t: index_log_odds(z, t).sum(), logits, target)
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerCrossEntropyLoss

        own = logits.detach().clone().requires_grad_()  # it writes the gradient over its logits
        steps["Liger cross-entropy"] = forward_and_backward(LigerCrossEntropyLoss(), own, target)
    taken, copied = logits.detach(), torch.empty_like(logits, requires_grad=False)
    milliseconds, over = ratios({**steps, "copy": lambda: copied.copy_(taken)}, baseline, rounds, seconds)
    copy = over.pop("copy")
    return [
        {
            "loss": name,
            "rows": rows,
            "classes": classes,
            "dtype": str(dtype).removeprefix("torch."),
            "ms": milliseconds * ratio,
            "over torch": ratio,
            "over Liger": ratio / over["Liger cross-entropy"] if "Liger cross-entropy" in over else None,
            "share of copy bandwidth": 1.5 * copy / ratio,  # three passes, where a copy makes two
            "peak / logits": peak_bytes(step) / logits.nbytes,
        }
        for (name, ratio), step in zip({BASELINE: 1.0, **over}.items(), (baseline, *steps.values()), strict=True)
    ]


def table(found: list[dict[str, Any]]) -> Table:
    """Return the measurements as a table."""
    shown = Table(*HEADINGS, title=f"forward and backward (equilog {__version__}, torch {torch.__version__})")
    for row in found:
        numbers = ("-" if row[name] is None else f"{row[name]:.2f}" for name in HEADINGS[2:])
        shown.add_row(row["loss"], f"{row['rows']} x {row['classes']} {row['dtype']}", *numbers)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each measurement (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    if not torch.cuda.is_available():
        console.print("no GPU: torch sees no CUDA device here, so there is nothing to measure.")
        return
    found = [row for size in SIZES for row in measure(*size, "cuda", options.rounds, options.seconds)]
    console.print(table(found))
    if options.json:
        setting = {"equilog": __version__, "torch": torch.__version__, "device": torch.cuda.get_device_name()}
        options.json.write_text(json.dumps({"setting": setting, "measured": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
