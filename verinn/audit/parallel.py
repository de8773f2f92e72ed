"""Several runs at a time, each of which can be ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from verinn.audit.process import Running

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def in_parallel(
    items: Sequence[Item], jobs: int, work: Callable[[Item, Running], Outcome]
) -> Generator[Outcome, None, None]:
    """The outcomes of ``work`` in the order in which they come, ``jobs`` at a time.

    ``work`` enters what it starts into the ``Running`` that it is given. Closing the iterator, or an
    exception, ends what runs.
    """
    running = Running()
    with ThreadPoolExecutor(jobs) as pool:
        futures: list[Future[Outcome]] = [pool.submit(work, item, running) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
            running.kill()
