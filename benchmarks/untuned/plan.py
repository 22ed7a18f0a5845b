"""What is compared, and the learning rates: those that tutorials and papers start from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from benchmarks.quality.train import ADAMW

BASELINE = "cross-entropy"

LOSSES = {
    "cross-entropy": BASELINE,
    "weighted-cross-entropy": "class weights",
    "focal": "focal",
    "balanced-softmax": "balanced softmax",
    "class-16-auto": "ours, pools of 16, running prior",
    "class-4-auto": "ours, pools of 4, running prior",
    "class-batch-auto": "ours, one pool a batch, running prior",
    "class-16-none": "ours, pools of 16, no prior",
}
"""Settings of `benchmarks.quality.settings` and what the tables call them, the baseline first."""


@dataclass(frozen=True)
class Optimizer:
    """One optimizer with learning rates and weight decay as they are found in the wild."""

    name: str
    build: Callable[..., torch.optim.Optimizer]
    learning_rates: tuple[float, ...]
    weight_decay: float
    """That of torch."""


OPTIMIZERS = (
    Optimizer("SGD", partial(torch.optim.SGD, fused=True), (0.1, 0.5), 0.0),
    Optimizer("SGD, momentum 0.9", partial(torch.optim.SGD, momentum=0.9, fused=True), (0.01, 0.1, 0.3), 0.0),
    Optimizer("AdamW", ADAMW, (1e-3, 3e-3), 1e-2),
)
