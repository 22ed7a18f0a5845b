"""The trainings on a Dask cluster, by joblib's backend for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib import parallel_config

from equilog.compare.errors import DataError
from equilog.compare.run.one_run import Split

SECONDS = 10
"""To wait for the scheduler to answer, and for a worker of it."""


@contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Have joblib run what the body asks of it on the workers of a Dask scheduler; on this machine if None.

    Every worker must have this version of equilog[cluster] installed. A split's arrays are sent to the cluster once,
    and workers take them from each other; the files are read and written here.

    Args:
        address: of the scheduler, such as tcp://10.0.0.5:8786.

    Raises:
        DataError: dask is not installed, no scheduler answers there, it has no worker, or it went away with all of its
            workers, or with too many of those that a training was given to.
    """
    if address is None:
        yield
        return
    client = _client(address)
    from dask.sizeof import sizeof
    from distributed import CancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    # joblib sends an argument once, instead of with every training, where it is known to be large.
    sizeof.register(Split, lambda split: sum(part.nbytes for part in vars(split).values() if hasattr(part, "nbytes")))
    with client:
        if not client.ncores():
            try:
                client.wait_for_workers(1, timeout=SECONDS)
            except TimeoutError as error:
                raise DataError(
                    f"--cluster {address}: the scheduler has no worker. Start some: dask worker {address}"
                ) from error
        try:
            with parallel_config("dask", client=client):
                yield
        except (KilledWorker, CommClosedError, CancelledError) as error:
            raise DataError(
                f"--cluster {address}: the scheduler or a training's workers went away ({type(error).__name__}), most "
                "often for want of memory. What had finished is kept: go on by --resume."
            ) from error


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise DataError(
            f"--cluster needs {error.name}, which is not installed: pip install 'equilog[cluster]', here and where the "
            "workers run"
        ) from error
    try:
        return Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"--cluster {address}: no Dask scheduler answers there ({error}). Give its address, such as "
            "tcp://10.0.0.5:8786; `dask scheduler` says it when it starts."
        ) from error
