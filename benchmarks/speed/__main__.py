"""Print time and peak memory of every loss beside torch's own on the same tensors, and what they grow with.

One thread, float32, forward and backward. --write FOLDER also writes speed.json, speed.svg and speed.md.
"""

import argparse
import os
import platform
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed import layers, report, training
from benchmarks.speed.contenders import OURS, TORCH, Contender, Kind, inputs, peers
from benchmarks.speed.measure import forward_and_backward, peak_bytes, ratios, with_malloc_setting
from rich.console import Console

from equilog import __version__
from equilog.ops.native.call import has_kernels

SHAPES: dict[Kind, list[tuple[int, int]]] = {
    "index": [(256, 10), (65536, 21), (2048, 256), (4096, 1000), (2048, 32000)],
    "soft": [(256, 10), (65536, 21), (4096, 1000)],
    "labels": [(256, 14), (512, 1000), (64, 100_000)],
}
GROWTH = {
    "rows": [(n, 100) for n in (64, 256, 1024, 4096, 16384)],
    "classes": [(256, m) for m in (10, 100, 1000, 10000)],
}


def measure(
    kind: Kind, shape: tuple[int, int], contenders: list[Contender], options: argparse.Namespace, compiled: bool
) -> list[dict[str, Any]]:
    """Return time and memory of the contenders of one kind at one shape, over torch's loss."""
    logits, target = inputs(kind, *shape, options.device)
    chosen = [each for each in contenders if each.kind == kind and shape[1] <= each.most_classes]
    baseline = forward_and_backward(TORCH[kind][1], logits, target)
    steps = {
        (each.name, "eager"): forward_and_backward(each.loss_for(shape[1]), logits, each.prepared(target))
        for each in chosen
    }
    if compiled:
        torch.compiler.reset()
        for each in [Contender(TORCH[kind][0], kind, TORCH[kind][1]), *chosen]:
            # A size at a time: what serves all sizes is slower, and a loop over one size is what training is.
            whole = torch.compile(each.loss_for(shape[1]), fullgraph=True, dynamic=False)
            steps[each.name, "compiled"] = forward_and_backward(whole, logits, each.prepared(target))
    milliseconds, over = ratios(steps, baseline, options.rounds, options.seconds)
    row = {"kind": kind, "rows": shape[0], "columns": shape[1]}
    found = [row | {"loss": TORCH[kind][0], "mode": "eager", "time": 1.0, "peak": peak_bytes(baseline) / logits.nbytes}]
    found += [
        row | {"loss": name, "mode": mode, "time": over[name, mode], "peak": peak_bytes(step) / logits.nbytes}
        for (name, mode), step in steps.items()
    ]
    return [each | {"torch_ms": milliseconds} for each in found]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the table, a plot and the data there")
    parser.add_argument("--device", default="cpu", help="device of the tensors (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each measurement (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each turn (default: %(default)s)")
    options = parser.parse_args()
    with_malloc_setting()
    torch.set_num_threads(1)
    others, missing = peers()
    contenders = [*OURS, *others]
    console = Console()
    with console.status("") as status:
        table: list[dict[str, Any]] = []
        for kind, shapes in SHAPES.items():
            for shape in shapes:
                status.update(f"{kind} targets, {shape[0]} x {shape[1]}")
                table += measure(kind, shape, contenders, options, compiled=True)
        growth: list[dict[str, Any]] = []
        for by, shapes in GROWTH.items():
            for shape in shapes:
                status.update(f"growth with {by}, {shape[0]} x {shape[1]}")
                growth += [row | {"by": by} for row in measure("index", shape, [OURS[0], OURS[1]], options, False)]
        status.update("from hidden states")
        hidden = layers.measure(options.rounds)
        status.update("training steps")
        steps = training.shares(options.rounds, options.seconds)
    result = {
        "setting": setting(options.device),
        "not measured": missing,
        "losses": table,
        "growth": growth,
        "from hidden states": hidden,
        "training steps": steps,
    }
    report.show(console, result)
    if options.write:
        report.write(options.write, result)


def setting(device: str) -> dict[str, str]:
    """Return what the numbers depend on."""
    return {
        "equilog": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "C++ kernels": "yes" if has_kernels() else "no",
        "malloc": os.environ.get("GLIBC_TUNABLES", "the system's"),
    }


if __name__ == "__main__":
    main()
