"""Cells of a benchmark, several at once, each in a process of one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from typing import TypeVar

import torch

from benchmarks.results import commit
from xadflow.progress import progress_board, track

Cell = TypeVar("Cell")


def run_cells(
    cells: Sequence[Cell], measured: Callable[[Cell, float, str], float | None], jobs: int, until: float
) -> None:
    """Call `measured(cell, until, commit)` in the order given; it tells its seconds, or None when it was too late to
    start.
    """
    done, at = 0, commit()
    with (
        progress_board(),
        track("cells") as update,
        ProcessPoolExecutor(jobs or os.cpu_count(), get_context("spawn"), _alone) as pool,
    ):
        futures = {pool.submit(measured, cell, until, at): cell for cell in cells}
        for future in as_completed(futures):
            done += 1
            if (seconds := future.result()) is not None:
                print(f"{futures[future]}  {seconds:.0f} s", flush=True)
            update(done, len(cells), {})


def _alone() -> None:
    """One thread; and no cell goes on for a run that was killed."""
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_the_run() -> None:
    run = parent_process()
    if run is not None:
        run.join()
        os._exit(1)
