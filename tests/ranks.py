"""Runs a function in several gloo processes and hands their results back."""

import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.tensor", "torch.nn.parallel", "equilog"]
)
"""So that torch is imported once, by the server that the ranks are forked off, which has no threads."""


def run_ranks(world: int, work: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """Return what `work(rank, *args)` returns on each rank, None for a rank that left without a word."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (world, folder, timeout, work, args), nprocs=world, start_method="forkserver")
        files = [Path(folder, f"{rank}.pt") for rank in range(world)]
        return [torch.load(file, weights_only=False) if file.exists() else None for file in files]


def _rank(rank: int, world: int, folder: str, timeout: float, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
    )
    try:
        torch.save(work(rank, *args), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()
