"""Time and peak memory of the loss from hidden states beside torch's own: python -m benchmarks.linear.

One thread, float32, forward and backward. Time is over that of F.linear_cross_entropy (torch 2.13 or later) with
chunks of the same size, memory over the size of the logits.
"""

import argparse
from functools import partial

import torch
from benchmarks.speed.measure import forward_and_backward, peak_bytes, ratios, with_malloc_setting
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from equilog import __version__, linear_log_balanced_cross_entropy, log_balanced_cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--rows", type=int, default=2048, help="sets (default: %(default)s)")
    parser.add_argument("--features", type=int, default=256, help="features of a set (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=32000, help="classes (default: %(default)s)")
    parser.add_argument("--chunk-rows", type=int, nargs="+", default=[128, 256], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement (default: %(default)s)")
    options = parser.parse_args()
    with_malloc_setting()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(options.rows, options.features, generator=generator).requires_grad_()
    weight = torch.randn(options.classes, options.features, generator=generator).div_(options.features**0.5)
    target = torch.randint(options.classes, (options.rows,), generator=generator)
    inputs = hidden, weight.requires_grad_(), target

    table = Table(title=f"equilog {__version__}, torch {torch.__version__}, {options.rows} x {options.classes}")
    for heading in ("loss", "chunk rows", "time", "peak"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    for size in options.chunk_rows:
        theirs = partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=size))
        ours = partial(linear_log_balanced_cross_entropy, chunk_rows=size)
        steps = {
            "class balance, batch": forward_and_backward(ours, *inputs),
            "class balance, pools of 16": forward_and_backward(partial(ours, pool=16), *inputs),
            "class balance, from the logits": forward_and_backward(from_logits, *inputs),
        }
        baseline = forward_and_backward(theirs, *inputs)
        _, over = ratios(steps, baseline, options.rounds, 0.0)
        for name, step in {"torch linear_cross_entropy": baseline, **steps}.items():
            share = peak_bytes(step) / (4 * options.rows * options.classes)
            table.add_row(name, str(size), f"{over.get(name, 1.0):.2f}", f"{share:.2f}")
    Console().print(table)


def from_logits(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The loss with all logits there."""
    return log_balanced_cross_entropy(hidden @ weight.T, target)


if __name__ == "__main__":
    main()
