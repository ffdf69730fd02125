"""Batches side by side on a CPU, each on one of torch's threads.

Torch splits every operation among its threads instead, and each waits for the slowest, thousands of times a batch. For
few images that costs more than it brings, and where another process wants the cores as well they mostly wait: one image
through lite0 and back took 43 ms of one processor on one thread, and 500 ms of two on two. What is computed here does
not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_FEWEST = 4  # items that are worth a batch of their own
_OPENING = Lock()  # while lanes open, a new thread would begin with one of torch's threads for good


def side_by_side(
    work: Callable[[T], R], batches: Sequence[T], device: torch.device, most: int | None = None
) -> Iterator[R]:
    """`work` of each batch, in their order; as many at a time as torch has threads on a CPU, one by one elsewhere.

    At most `most` at a time, where their images are large. `work` has to be safe in several threads. What it raises is
    raised here, and nothing more is begun.
    """
    threads = _threads()
    if device.type != "cpu" or threads == 1:
        yield from map(work, batches)
        return
    with _lanes(max(1, min(threads, len(batches), most or threads))) as pool:
        waiting: list[Future[R]] = [pool.submit(work, batch) for batch in batches]
        try:
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for one in waiting:
                one.cancel()


def portions(items: Sequence[T], most: int, device: torch.device) -> list[Sequence[T]]:
    """Items in portions of at most `most`, nearly equal, so many that on a CPU each of torch's threads has one."""
    count = -(-len(items) // most)
    if device.type == "cpu" and count:
        lanes = min(_threads(), max(1, len(items) // _FEWEST))
        count = -(-count // lanes) * lanes
    size, larger = divmod(len(items), count) if count else (0, 0)
    starts = [number * size + min(number, larger) for number in range(count + 1)]
    return [items[start:end] for start, end in zip(starts, starts[1:], strict=False)]


def _threads() -> int:
    with _OPENING:
        return torch.get_num_threads()


def _lanes(count: int) -> ThreadPoolExecutor:
    """So many threads, each with one of torch's; the caller keeps its number, which is also what new threads begin
    with.
    """
    all_there = Barrier(count + 1)

    def alone() -> None:
        torch.get_num_threads()  # a new thread's first operation takes the common number, and would undo the next line
        torch.set_num_threads(1)
        all_there.wait()

    with _OPENING:
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(count, thread_name_prefix="lane", initializer=alone)
        for _ in range(count):
            pool.submit(int)
        all_there.wait()
        torch.set_num_threads(before)
    return pool
