"""The loss from hidden states, without the logits, beside torch's own chunked one."""

from functools import partial

import torch
from benchmarks.speed.measure import forward_and_backward, peak_bytes, ratios
from torch import Tensor
from torch.nn import functional as F

from equilog import linear_log_balanced_cross_entropy, log_balanced_cross_entropy

ROWS, FEATURES, CLASSES = 2048, 256, 32000
CHUNK_ROWS = (128, 256)


def measure(rounds: int) -> list[dict[str, object]]:
    """Return time over torch's loss with chunks of the same size, and peak memory over the size of the logits."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, FEATURES, generator=generator).requires_grad_()
    weight = torch.randn(CLASSES, FEATURES, generator=generator).div_(FEATURES**0.5).requires_grad_()
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    inputs = hidden, weight, target
    rows: list[dict[str, object]] = []
    for size in CHUNK_ROWS:
        theirs = partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=size))
        ours = partial(linear_log_balanced_cross_entropy, chunk_rows=size)
        baseline = forward_and_backward(theirs, *inputs)
        steps = {
            "class balance, batch": forward_and_backward(ours, *inputs),
            "class balance, pools of 16": forward_and_backward(partial(ours, pool=16), *inputs),
            "class balance, from the logits": forward_and_backward(_from_logits, *inputs),
        }
        _, over = ratios(steps, baseline, rounds, seconds=0.0)
        rows += [
            {
                "loss": name,
                "chunk_rows": size,
                "time": over.get(name, 1.0),
                "peak": peak_bytes(step) / (ROWS * CLASSES * hidden.element_size()),
            }
            for name, step in {"torch linear_cross_entropy": baseline, **steps}.items()
        ]
    return rows


def _from_logits(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return log_balanced_cross_entropy(hidden @ weight.T, target)
