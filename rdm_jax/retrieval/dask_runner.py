"""The runner of Dask; the one file that imports dask.distributed.

A plugin of the workers carries what makes a part: the scheduler sends it once to each worker, also to one that joins
later, and a worker that is killed takes nothing along. Tasks hold nothing but the number of a part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from rdm_jax.core import paths, text
from rdm_jax.core.errors import UserError, bounded, first_line

_LOG = logging.getLogger(__name__)

PACKAGE = "rdm_jax"
MOST_WORKERS = 8  # by default, on this machine
POLL_SECONDS, WORKERS_SECONDS = 0.1, 10.0


@dataclasses.dataclass(frozen=True)
class DaskRunner:
    """A Dask cluster, each thread of whose workers makes one part at a time.

    Attributes:
      scheduler: its address, such as "tcp://HOST:8786", or its file in a shared folder; if "", processes of this
        machine are started.
      workers: the number of those processes; if 0 as many as there are cores, up to 8.
      wait: the seconds after which a scheduler that does not answer is given up.

    Raises:
      UserError: a number is out of range, or `workers` is given for the workers of a scheduler.
    """

    scheduler: str = ""
    workers: int = 0
    wait: int = 60

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise UserError(f"workers {self.workers} is out of range; give 1 to 1024, or 0 for one for each core")
        if not 1 <= self.wait <= 86400:
            raise UserError(f"wait {self.wait} is out of range; give 1 to 86400 seconds")
        if self.scheduler and self.workers:
            raise UserError(f"workers {self.workers} has no effect on the scheduler {self.scheduler}; leave it out")

    def run(self, make: Callable[[int], int], numbers: Sequence[int]) -> Generator[int, None, None]:
        """Yields the number of each part when a worker has made it.

        Raises:
          UserError: Dask is not installed, no scheduler answers or it stops, a part ends one worker after another, or
            `make` has raised it.
        """
        library = _library()
        with self._client(library) as client, _installed(library, client, make) as plugin:
            futures = client.map(_make_part, list(numbers), plugin=plugin, pure=False)
            numbers_by_key = {future.key: number for future, number in zip(futures, numbers, strict=True)}
            completed = library.as_completed(futures, loop=client.loop)
            del futures  # a future that nobody holds is forgotten, and never computed again where its worker dies
            for future in _as_they_end(client, completed):
                number = numbers_by_key[future.key]
                _check(library, future, number)
                yield number

    @contextlib.contextmanager
    def _client(self, library: Any) -> Iterator[Any]:
        """Yields a client of the scheduler, or of a cluster of processes that lives as long."""
        with contextlib.ExitStack() as stack:
            scheduler = self._address() if self.scheduler else stack.enter_context(self._processes(library))
            try:
                client = library.Client(scheduler, timeout=self.wait, set_as_default=False)
            except (OSError, ValueError) as error:  # ValueError: an address of a kind that is unknown
                raise UserError(
                    f"no scheduler answers at {scheduler} within {self.wait} s ({first_line(error)}); start one with "
                    "`dask scheduler`, and check the address"
                ) from error
            _check_versions(stack.enter_context(client))
            yield client

    def _processes(self, library: Any) -> Any:
        """Returns a cluster of processes of this machine, without limits of memory: the model takes most of it."""
        count = self.workers or min(MOST_WORKERS, os.cpu_count() or 1)
        return library.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )

    def _address(self) -> str:
        """Returns the address of the scheduler; waits for its file."""
        if paths.is_remote(self.scheduler) or re.search(r":\d+$", self.scheduler):
            return self.scheduler
        file, end = paths.local(self.scheduler), time.monotonic() + self.wait
        while True:
            try:
                return str(text.read_json(file)["address"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"no address of a scheduler is in {file} after {self.wait} s ({first_line(error)}); start one "
                        f"with `dask scheduler --scheduler-file {file}`, or give an address such as tcp://HOST:8786"
                    ) from error
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _installed(library: Any, client: Any, make: Callable[[int], int]) -> Iterator[str]:
    """Sends `make` to all workers, also to those that join later, and yields the name that it has there."""
    plugin = library.WorkerPlugin()  # it does nothing itself; workers look up what it carries
    plugin.make = make
    name = f"rdm-parts-{secrets.token_hex(8)}"
    try:
        with bounded("a worker cannot take the job", "install on all workers what this process has"):
            client.register_plugin(plugin, name=name)
        yield name
    finally:
        if client.status == "running":  # a scheduler that is gone holds no plugin
            # The scheduler forgets it in any case; a worker that never had it complains.
            with contextlib.suppress(Exception):
                client.unregister_worker_plugin(name)


def _make_part(number: int, plugin: str) -> None:
    """Makes one part in a worker."""
    from distributed import get_worker

    vars(get_worker().plugins[plugin])["make"](number)


def _as_they_end(client: Any, completed: Any) -> Iterator[Any]:
    """Yields futures as they end, and warns once when there is no worker."""
    looked, warned = time.monotonic(), False
    while not completed.is_empty():
        if completed.has_ready():
            yield from completed.next_batch(block=False)
            continue
        time.sleep(POLL_SECONDS)
        if time.monotonic() - looked > WORKERS_SECONDS:
            looked, absent = time.monotonic(), _lacks_workers(client)
            if absent and not warned:
                address = client.scheduler.address
                _LOG.warning("no worker is connected to %s; parts wait for one: `dask worker %s`", address, address)
            warned = absent


def _lacks_workers(client: Any) -> bool:
    """Returns whether a scheduler that answers has no worker; where it is gone, the futures end as cancelled."""
    try:
        return client.status == "running" and not client.nthreads()
    except OSError:
        return False


def _check(library: Any, future: Any, number: int) -> None:
    """Raises the error of a future that has ended otherwise than well."""
    if future.status == "finished":
        return
    if future.cancelled():
        raise UserError(
            f"the scheduler has stopped, or has dropped part {number}; start it again and repeat the same command, "
            "which resumes with the missing parts"
        )
    error = future.exception()
    if isinstance(error, library.KilledWorker):
        raise UserError(
            f"part {number} has ended {error.allowed_failures + 1} workers, the last one {error.last_worker.address}, "
            "perhaps for lack of memory; give workers more memory or fewer threads, and repeat the same command"
        )
    raise error


def _check_versions(client: Any) -> None:
    """Raises UserError if the scheduler or a worker has another rdm_jax than this process."""
    versions = client.get_versions(packages=[PACKAGE])
    own = versions["client"]["packages"][PACKAGE]
    workers = {f"worker {address}": found for address, found in versions["workers"].items()}
    for name, found in {"the scheduler": versions["scheduler"], **workers}.items():
        if (version := found["packages"].get(PACKAGE)) != own:
            raise UserError(
                f"{name} has rdm_jax {version or 'not installed'}, and this process has {own}; install the same "
                "version, with the extra dask, everywhere"
            )


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UserError("Dask is not installed; pip install 'rdm_jax[dask]'") from error
    return distributed
