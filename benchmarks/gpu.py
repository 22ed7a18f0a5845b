"""Time every form of the loss on a GPU beside torch's own and a plain copy: python -m benchmarks.gpu, from the root.

A line for each form: forward and backward in milliseconds, eager and compiled; over torch's own loss of the same
targets, each in its way; over Liger's and cut-cross-entropy's where these are installed; the share of a copy's
bandwidth, counting what no loss can do without (the logits read twice, their gradient written, the targets read
twice); and the peak of what a step allocates, over the logits. It starts no form after --minutes, and says which it
left out. --json FILE also writes the lines as data. Without a GPU it says so and stops.

--tests runs the tests of the kernels on the GPU first, in the same minutes.
"""

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from benchmarks.speed.measure import Step, forward_and_backward, peak_bytes, ratios
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from equilog import (
    __version__,
    linear_log_balanced_cross_entropy,
    log_balanced_cross_entropy,
    multilabel_cross_entropy,
)

Kind = Literal["index", "soft", "labels", "named", "linear"]
"""Class indices, probabilities, yes/no labels, positives by their numbers, or class indices and hidden states."""
NAMED = 16
"""Positives of a sample that are named."""
ROOT = Path(__file__).parents[1]
TESTS = (*ROOT.glob("tests/ops/*/test_triton.py"), ROOT / "tests/ops/test_triton_loss.py")
HEADINGS = (
    "form", "size", "ms", "compiled ms", "over torch", "compiled over torch compiled", "over Liger", "over CCE",
    "share of copy bandwidth", "peak / logits",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """One way to call a loss, at one size."""

    name: str
    kind: Kind
    rows: int
    columns: int
    dtype: torch.dtype
    options: dict[str, Any] = field(default_factory=dict)
    width: int = 0
    """Numbers of a hidden state."""
    with_prior: bool = False

    @property
    def size(self) -> str:
        """The size in words."""
        hidden = f" x {self.width}" if self.width else ""
        return f"{self.rows}{hidden} x {self.columns} {str(self.dtype).removeprefix('torch.')}"


FORMS = [
    Form("indices, batch", "index", 8192, 128256, torch.bfloat16),
    Form("indices, pools of 16, prior", "index", 8192, 128256, torch.bfloat16, {"pool": 16}, with_prior=True),
    Form("indices, batch", "index", 8192, 32000, torch.float32),
    Form("indices, batch", "index", 65536, 1000, torch.float32),
    Form("indices, batch", "index", 1_000_000, 21, torch.float32),
    Form("indices, batch", "index", 1_000_000, 21, torch.bfloat16),
    Form("indices, batch", "index", 256, 10, torch.float32),
    Form("indices, smoothed", "index", 8192, 128256, torch.bfloat16, {"label_smoothing": 0.1}),
    Form("indices, smoothed", "index", 1_000_000, 21, torch.float32, {"label_smoothing": 0.1}),
    Form("indices, divergence", "index", 65536, 1000, torch.float32, {"inner": "divergence"}),
    Form("blocks of 50, batch", "index", 65536, 1000, torch.float32, {"balance": torch.arange(1000) // 50}),
    Form("pairs, batch", "index", 65536, 1000, torch.float32, {"balance": "pair"}),
    Form("pairs, batch", "index", 1_000_000, 21, torch.float32, {"balance": "pair"}),
    Form("probabilities, batch", "soft", 8192, 32000, torch.float32),
    Form("probabilities, batch", "soft", 8192, 32000, torch.bfloat16),
    Form("probabilities, batch", "soft", 1_000_000, 21, torch.float32),
    Form("labels, bool", "labels", 4096, 32000, torch.float32),
    Form("labels, bool", "labels", 4096, 32000, torch.bfloat16),
    Form("labels, bool", "labels", 65536, 80, torch.float32),
    Form("labels, nll", "labels", 4096, 32000, torch.bfloat16, {"inner": "nll"}),
    Form("labels, divergence", "labels", 65536, 80, torch.float32, {"inner": "divergence"}),
    Form("labels, one pool each, prior", "labels", 65536, 80, torch.float32, {"pool": "label"}, with_prior=True),
    Form(f"labels, {NAMED} by index", "named", 4096, 32000, torch.float32),
    Form("linear layer, batch", "linear", 8192, 128256, torch.bfloat16, width=4096),
]


@dataclass(frozen=True)
class Call:
    """A form with its tensors: what is measured, and what it is measured against."""

    inputs: tuple[Tensor, ...]
    """The logits, or the hidden states and the classifier; then the target."""
    loss: Callable[..., Tensor]
    torch_inputs: tuple[Tensor, ...]
    torch_loss: Callable[..., Tensor]
    peers: dict[str, Step]
    """Other packages' losses, by name."""


def call_of(form: Form, device: str) -> Call:
    """Return a form's tensors and losses."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=form.dtype, device=device).requires_grad_()

    index = torch.randint(form.columns, (form.rows,), generator=generator, device=device)
    options = form.options
    if form.with_prior:
        counts = torch.arange(1, form.columns + 1, device=device)
        options = options | {"prior": counts / (form.columns + 1) if form.kind in ("labels", "named") else counts}
    if form.kind == "linear":
        tensors = normal(form.rows, form.width), normal(form.columns, form.width), index
        return Call(tensors, linear_log_balanced_cross_entropy, tensors, _dense, _linear_peers(*tensors, device))
    logits = normal(form.rows, form.columns)
    if form.kind in ("index", "soft"):
        target = index if form.kind == "index" else logits.detach().softmax(1)
        loss = functools.partial(log_balanced_cross_entropy, **options)
        smoothing = options.get("label_smoothing", 0.0)
        peers = _peers(logits, target, device) if form.kind == "index" and not smoothing else {}
        torch_loss = functools.partial(F.cross_entropy, label_smoothing=smoothing)
        return Call((logits, target), loss, (logits, target), torch_loss, peers)
    named = (index[:, None] + torch.arange(NAMED, device=device) * max(form.columns // NAMED, 1)) % form.columns
    chosen = torch.zeros(form.rows, form.columns, dtype=torch.bool, device=device).scatter_(1, named, True)
    target = chosen if form.kind == "labels" else named
    loss = functools.partial(multilabel_cross_entropy, index_target=form.kind == "named", **options)
    torch_inputs = logits, chosen.to(form.dtype)
    return Call((logits, target), loss, torch_inputs, F.binary_cross_entropy_with_logits, {})


def measure(form: Form, device: str, rounds: int, seconds: float, compiles: bool = True) -> dict[str, Any]:
    """Return a form's line: times, their ratios, the share of a copy's bandwidth, and the peak."""
    call = call_of(form, device)
    step = forward_and_backward(call.loss, *call.inputs)
    steps = {"torch": forward_and_backward(call.torch_loss, *call.torch_inputs), **call.peers}
    if compiles:
        torch.compiler.reset()
        steps["compiled"] = forward_and_backward(torch.compile(call.loss), *call.inputs)
        steps["torch compiled"] = forward_and_backward(torch.compile(call.torch_loss), *call.torch_inputs)
    logits_bytes = form.rows * form.columns * call.inputs[0].element_size()
    if form.kind != "linear":
        taken, copied = call.inputs[0].detach(), torch.empty_like(call.inputs[0], requires_grad=False)
        steps["copy"] = lambda: copied.copy_(taken)
    milliseconds, over = ratios(steps, step, rounds, seconds)
    least = 3 * logits_bytes + 2 * call.inputs[-1].nbytes
    return {
        "form": form.name,
        "size": form.size,
        "ms": milliseconds,
        "compiled ms": milliseconds * over["compiled"] if compiles else None,
        "over torch": 1.0 / over["torch"],
        "compiled over torch compiled": over["compiled"] / over["torch compiled"] if compiles else None,
        "over Liger": 1.0 / over["Liger"] if "Liger" in over else None,
        "over CCE": 1.0 / over["CCE"] if "CCE" in over else None,
        "share of copy bandwidth": over["copy"] * least / (2 * logits_bytes) if "copy" in over else None,
        "peak / logits": peak_bytes(step) / logits_bytes,
    }


def lines(start: float, minutes: float, rounds: int, seconds: float) -> Iterator[dict[str, Any] | str]:
    """Give each form's line, or why it has none."""
    for form in FORMS:
        if time.monotonic() - start > 60 * minutes:
            yield f"left out, since {minutes:g} minutes were over: {form.name}, {form.size}"
            continue
        try:
            yield measure(form, "cuda", rounds, seconds)
        except torch.cuda.OutOfMemoryError:
            yield f"left out, since memory was not enough: {form.name}, {form.size}"
        torch.cuda.empty_cache()


def table(found: list[dict[str, Any]], device: str) -> Table:
    """Return the lines as a table."""
    title = f"forward and backward on {device} (equilog {__version__}, torch {torch.__version__})"
    shown = Table(*HEADINGS, title=title)
    for row in found:
        numbers = ("-" if row[name] is None else f"{row[name]:.3g}" for name in HEADINGS[2:])
        shown.add_row(row["form"], row["size"], *numbers)
    return shown


def _dense(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, target)


def _peers(logits: Tensor, target: Tensor, device: str) -> dict[str, Step]:
    if device != "cuda" or not importlib.util.find_spec("liger_kernel"):
        return {}
    from liger_kernel.transformers import LigerCrossEntropyLoss

    own = logits.detach().clone().requires_grad_()  # it writes the gradient over its logits
    return {"Liger": forward_and_backward(LigerCrossEntropyLoss(), own, target)}


def _linear_peers(hidden: Tensor, weight: Tensor, target: Tensor, device: str) -> dict[str, Step]:
    peers = {}
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        peers["Liger"] = forward_and_backward(LigerFusedLinearCrossEntropyLoss(), weight, hidden, target)
    if device == "cuda" and importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        peers["CCE"] = forward_and_backward(linear_cross_entropy, hidden, weight, target)
    return peers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines there")
    parser.add_argument("--tests", action="store_true", help="run the tests of the kernels on the GPU first")
    parser.add_argument("--minutes", type=float, default=4.0, help="start no form after these (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of each turn (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    if not torch.cuda.is_available():
        console.print("no GPU: torch sees no CUDA device here, so there is nothing to measure.")
        return
    start, found, left_out = time.monotonic(), [], []
    if options.tests:
        subprocess.run([sys.executable, "-m", "pytest", "-q", *map(str, TESTS)], check=True)
    for line in lines(start, options.minutes, options.rounds, options.seconds):
        if isinstance(line, str):
            left_out.append(line)
        else:
            found.append(line)
    device = torch.cuda.get_device_name()
    console.print(table(found, device))
    for line in left_out:
        console.print(line)
    if options.json:
        setting = {"equilog": __version__, "torch": torch.__version__, "device": device}
        data = {"setting": setting, "measured": found, "left out": left_out}
        options.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
