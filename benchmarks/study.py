"""What every benchmark shares: its command line, cells kept in var/bench-<name>/, progress lines, its results file.

A cell is one training or measurement. Its file is named by what it depends on: its own settings, whole folders of the
package (xadflow.lineage) and the benchmark's own files. A cell that is there is not made twice, one that is half made
is not there, so any run can be stopped and started again.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.results import commit, write_results
from xadflow.digests import sha256_file, sha256_json
from xadflow.lineage import DETECTOR_CODE, code_digest
from xadflow.progress import progress_board, track
from xadflow.settings import Home

Cell = TypeVar("Cell")
HERE = Path(__file__).parent


class Study:
    """One benchmark by the name of its results file.

    Args:
        code: folders of the package that its cells depend on.
        own: the benchmark's own files, or folders of them, beside this one.
    """

    def __init__(self, name: str, code: Sequence[str] = DETECTOR_CODE, own: Sequence[str] = ()) -> None:
        self.name, self.code, self.own = name, tuple(code), tuple(own)
        self.given = Namespace(quick=False, only=(), minutes=float("inf"), jobs=0)
        self.began = time.monotonic()

    def start(self, doc: str | None, quick: str, *shared: str, **more: dict[str, Any]) -> Namespace:
        """Read the command line: `--quick`, those of SHARED that are named, and `more` (`seeds={"type": int}`)."""
        parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help=quick)
        for name, how in ({name: SHARED[name] for name in shared} | more).items():
            parser.add_argument(f"--{name.replace('_', '-')}", **how)
        vars(self.given).update(vars(parser.parse_args()))  # parse_args(self.given) would keep what stands there
        self.began = time.monotonic()
        return self.given

    @property
    def place(self) -> Path:
        """Where everything of this benchmark is kept."""
        return Home.find().state / f"bench-{self.name}"

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def note(self, what: str) -> None:
        """A line of progress."""
        print(f"{self.seconds:6.0f} s  {what}", flush=True)

    def path(self, stem: str, **what: Any) -> Path:
        """Of a cell that is measured: `stem` with its suffix, and the digest of all that it depends on."""
        files = [one for name in self.own for one in sorted((HERE / name).rglob("*.py")) or [HERE / name]]
        own = {one.relative_to(HERE).as_posix(): sha256_file(one) for one in files}
        return self._named(stem, {**what, "own": own})

    def trained(self, stem: str, **what: Any) -> Path:
        """Of a model: what is measured of it may change, and it is not trained anew."""
        return self._named(stem, what)

    def _named(self, stem: str, what: Mapping[str, Any]) -> Path:
        key = sha256_json({**what, "code": code_digest(*self.code)})[:12]
        name, dot, suffix = stem.partition(".")
        return self.place / f"{name.replace(' ', '-')}-{key}{dot}{suffix}"

    def is_asked_for(self, cell: Any, cells: Iterable[Any]) -> bool:
        """Whether --only takes a cell: by any of the words of each field that it names."""
        known = [set(column) for column in zip(*map(words, cells), strict=True)]
        asked = [set(self.given.only) & column for column in known]
        return all(not some or word in some for word, some in zip(words(cell), asked, strict=True))

    def measure(
        self, cells: Sequence[Cell], path_of: Callable[[Cell], Path], make: Callable[[Cell], Any], jobs: int = 1
    ) -> dict[Cell, Any]:
        """What `make` gave of each cell, with its `seconds`: those that are kept, and those that --only and --minutes
        allow to be made, in the order given; `jobs` above 1: so many at once in processes of one thread.
        """
        wanted = [cell for cell in cells if not path_of(cell).is_file() and self.is_asked_for(cell, cells)]
        until, at = self.began + 60 * self.given.minutes, commit()
        works = ((cell, path_of(cell), make, until, at) for cell in wanted)
        if jobs == 1:
            for work in works:
                self._done(work[0], _finish(*work))
        elif wanted:
            pool = ProcessPoolExecutor(jobs, get_context("spawn"), _alone)
            with progress_board(), track("cells") as update, pool:
                futures = {pool.submit(_finish, *work): work[0] for work in works}
                for done, future in enumerate(as_completed(futures), 1):
                    self._done(futures[future], future.result())
                    update(done, len(wanted), {})
        return {cell: read(path_of(cell)) for cell in cells if path_of(cell).is_file()}

    def _done(self, cell: Any, seconds: float | None) -> None:
        if seconds is not None:
            self.note(f"{cell}: {seconds:.0f} s")

    def write(self, figures: Mapping[str, Any], seeds: Iterable[int], seconds: float | None = None) -> Path:
        """Write benchmarks/results/<name>.json, <name>-quick.json with --quick, and print the tables of its section."""
        from benchmarks.render import SECTIONS

        spent = self.seconds if seconds is None else seconds
        path = write_results(self.name, figures, seeds=list(seeds), seconds=spent, quick=self.given.quick)
        text = SECTIONS[self.name](json.loads(path.read_text())["figures"])
        print("\n".join(line for line in text.splitlines() if line.startswith(("|", "#", "Required", "Target"))))
        print(f"\n{self.seconds:.0f} s; written to benchmarks/results/{path.name}")
        return path


SHARED: Mapping[str, dict[str, Any]] = {
    "only": {"nargs": "+", "default": (), "metavar": "WORD", "help": "only the cells that have these words"},
    "minutes": {"type": float, "default": float("inf"), "help": "start no cell after so many minutes"},
    "jobs": {"type": int, "default": 0, "help": "cells at once; by default one for each core, on a GPU one"},
}


def words(cell: Any) -> tuple[str, ...]:
    """The fields of a cell as they are named on the command line."""
    return tuple(map(str, cell if isinstance(cell, tuple) else astuple(cell)))


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gave, from its file where it is kept: arrays (.npz), figures (.json), or a folder by its `save`."""
    if not path.exists():
        write(path, make())
    return read(path)


def write(path: Path, content: Any) -> None:
    """Whole or not at all, and never over a folder that another process wrote first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}-partial-{os.getpid()}{path.suffix}")
    if path.suffix == ".npz":
        np.savez_compressed(partial, **content)
    elif path.suffix == ".json":
        partial.write_text(json.dumps(content, allow_nan=False))
    else:
        content.save(partial)
    try:
        partial.replace(path)
    except OSError:  # another process was quicker with the same folder
        if path.suffix or not path.is_dir():
            raise
        shutil.rmtree(partial)


def read(path: Path) -> Any:
    """What was written; of a folder the path."""
    if path.suffix == ".npz":
        with np.load(path) as found:
            return dict(found)
    return json.loads(path.read_text()) if path.suffix == ".json" else path


def turns(
    arms: Mapping[str, Callable[[], Any]], rounds: int, least_s: float = 0.5
) -> dict[str, dict[str, list[float]]]:
    """Seconds a call on the `clock` and of the `cpu`, round by round; each arm is warmed up, and begins a round in its
    turn.
    """
    spent: dict[str, dict[str, list[float]]] = {name: {"clock": [], "cpu": []} for name in arms}
    for arm in arms.values():
        arm()
    names = list(arms)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            count, clock, cpu = 0, time.perf_counter(), time.process_time()
            while count == 0 or time.perf_counter() - clock < least_s:
                arms[name]()
                count += 1
            spent[name]["clock"].append((time.perf_counter() - clock) / count)
            spent[name]["cpu"].append((time.process_time() - cpu) / count)
    return spent


def ratios(above: Mapping[str, list[float]], below: Mapping[str, list[float]], of: str = "clock") -> list[float]:
    """Of two arms of :func:`turns`, round by round."""
    return [a / b for a, b in zip(above[of], below[of], strict=True)]


def _finish(cell: Cell, path: Path, make: Callable[[Cell], Any], until: float, at: str) -> float | None:
    """Seconds of one cell, which is then kept; None when it is too late to start."""
    started = time.monotonic()
    if started > until:
        return None
    found = make(cell)
    seconds = time.monotonic() - started
    is_figures = path.suffix == ".json"
    write(path, {"figures": found, "seconds": seconds, "commit": at} if is_figures else {**found, "seconds": seconds})
    return seconds


def _alone() -> None:
    """One thread on a CPU; and no cell goes on for a run that was killed."""
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)


def _end_with_the_run() -> None:
    run = parent_process()
    if run is not None:
        run.join()
        os._exit(1)
