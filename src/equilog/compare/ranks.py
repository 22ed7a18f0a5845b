"""The processes that a launcher has started to train one model together, as the comparison sees them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from equilog.compare.errors import DataError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""


class RanksPartedError(DataError):
    """Processes that trained together cannot go on, since one is gone or has failed alone."""


@dataclass(frozen=True)
class Ranks:
    """All processes that train together, and which of them this one is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def present(cls) -> "Ranks":
        """Return those of torch.distributed where it is initialised, else this process alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise RanksPartedError where one of several is gone, takes too long, or fails where the others may not.

        A ValueError, which is the fault of the data or of the loss, all of them meet alike.
        """
        try:
            yield
        except (RuntimeError, ArithmeticError, MemoryError) as error:
            if self.world == 1:
                raise
            raise RanksPartedError(
                f"The processes that train together have lost each other: {type(error).__name__}: {error} What had "
                "finished is kept: go on by --resume."
            ) from error

    def told(self, work: Callable[[], T]) -> T:
        """Return on every rank what `work` gives on the first, or raise there what it raises."""
        if self.world == 1:
            return work()
        said: list[Any] = [None, None]
        if self.first:
            try:
                said[0] = work()
            except Exception as error:
                said[1] = error
        with self.together():
            dist.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1]
        told: T = said[0]
        return told

    def require_same(self, asked: dict[str, Any]) -> None:
        """Raise DataError on every rank unless all were asked the same."""
        if self.world == 1:
            return
        of_ranks: list[dict[str, Any]] = [{} for _ in range(self.world)]
        with self.together():
            dist.all_gather_object(of_ranks, asked)
        for rank, theirs in enumerate(of_ranks):
            other = [
                "data" if name == "fingerprint" else f"{name} {theirs.get(name)}, not {value}"
                for name, value in of_ranks[0].items()
                if theirs.get(name) != value
            ]
            if other:
                raise DataError(
                    f"The process of rank {rank} was asked another thing than that of rank 0: other "
                    f"{'; '.join(other)}. Start all with the same command on the same data."
                )


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes of the launcher (torchrun, accelerate) that started this one, if one did, and leave them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not dist.is_available() or dist.is_initialized():
        yield Ranks.present()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    ranks = Ranks.present()
    try:
        yield ranks
    except DataError as error:
        if ranks.first:
            raise
        raise DataError(f"rank {ranks.rank}: {error}") from error
    except KeyboardInterrupt:
        if ranks.first:
            raise
        sys.exit(130)
    finally:
        dist.destroy_process_group()
