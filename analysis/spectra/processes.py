"""Work shared among processes, a matrix at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def each(work: Callable[[str], Result], names: Sequence[str], jobs: int) -> Iterator[Result]:
    """Yield the work's result for each name in order, `jobs` processes sharing the work; it must be picklable."""
    if jobs == 1:
        yield from map(work, names)
        return
    import torch

    threads = max(1, (os.cpu_count() or 1) // jobs)
    # spawn: a process forked after torch has started its threads may wait for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        pending = [pool.submit(work, name) for name in names]
        try:
            for future in pending:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
