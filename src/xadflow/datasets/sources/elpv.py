"""ELPV: 2,624 electroluminescence images of solar cells, 300x300 grey, graded labels, no masks.

Source: Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence
images", Solar Energy 2019; images CC BY-NC-SA 4.0, package `elpv-dataset`. A label is the probability of a defect in
{0, 1/3, 2/3, 1}; the two in the middle are ambiguous and left out of every protocol here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.errors import BadInput, DataUnavailable

PACKAGE = "elpv-dataset"
LICENCE = "CC BY-NC-SA 4.0"
FOLDS = 5
TRAIN_SHARE = 0.8

Indices = NDArray[np.int64]


class SplitIndices(NamedTuple):
    """Rows of labels.csv, counted from 0 in file order, of each split."""

    train: Indices
    test: Indices
    known: Indices


class ElpvOptions(Options):
    """`protocol`: which split; `reserved_defects`: how many labelled defects leave test for training."""

    protocol: Literal["peer-0", "blocks-0", "blocks-1", "blocks-2", "blocks-3", "blocks-4"] = "peer-0"
    reserved_defects: int = Field(default=60, ge=0)


def peer_split(probability: NDArray[np.float64], reserved_defects: int = 60) -> SplitIndices:
    """Protocol `peer-0`: random, both cell types together; comparable with other libraries.

    p = 0 is shuffled by `default_rng(0)`, the first int(0.8 n) train, the others test with all p = 1, except the
    reserved defects that the same generator draws afterwards.
    """
    rng = np.random.default_rng(0)
    normal, defective = _sure(probability)
    rng.shuffle(normal)
    cut = int(TRAIN_SHARE * normal.size)
    known = _drawn(rng, defective, reserved_defects)
    return SplitIndices(normal[:cut], np.concatenate([normal[cut:], np.setdiff1d(defective, known)]), known)


def block_split(probability: NDArray[np.float64], fold: int, reserved_defects: int = 60) -> SplitIndices:
    """Protocol `blocks-<fold>`: neighbouring rows look like cells of one module, so contiguous folds leak less.

    The rows with p in {0, 1} are cut in five contiguous folds of equal count; fold `fold` tests, p = 0 of the others
    train, the reserved defects are drawn from p = 1 of the others, whose remaining p = 1 are not used.
    """
    if not 0 <= fold < FOLDS:
        raise BadInput(f"there are {FOLDS} folds, counted from 0", seen=fold, next_step="use blocks-0 .. blocks-4")
    normal, defective = _sure(probability)
    test = np.array_split(np.sort(np.concatenate([normal, defective])), FOLDS)[fold]
    train = np.setdiff1d(normal, test)
    known = _drawn(np.random.default_rng(0), np.setdiff1d(defective, test), reserved_defects)
    return SplitIndices(train, test, known)


def _sure(probability: NDArray[np.float64]) -> tuple[Indices, Indices]:
    normal = np.flatnonzero(np.isclose(probability, 0.0, atol=1e-3))
    defective = np.flatnonzero(np.isclose(probability, 1.0, atol=1e-3))
    return normal.astype(np.int64), defective.astype(np.int64)


def _drawn(rng: np.random.Generator, defective: Indices, count: int) -> Indices:
    if count >= defective.size:
        raise BadInput(
            "more reserved defects than there are",
            seen=count,
            next_step=f"reserved_defects must be under {defective.size}",
        )
    return np.sort(rng.choice(defective, count, replace=False))


class Elpv:
    """The installed package as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self._options = read_options(ElpvOptions, name, options)

    def raw_sets(self) -> tuple[str, ...]:
        """None."""
        return ()

    def origin(self) -> str:
        """`elpv-dataset==<version>`. Raises DataUnavailable when the package is missing."""
        try:
            return f"{PACKAGE}=={version(PACKAGE)}"
        except PackageNotFoundError as err:
            raise DataUnavailable(
                "the ELPV images are not installed",
                seen=f"no package {PACKAGE}",
                next_step=f"pip install {PACKAGE}==1.0.0.post1",
            ) from err

    def candidates(self) -> Iterator[Candidate | Refused]:
        """One candidate a row of labels.csv that the protocol uses; the others are left out with the reason."""
        folder, source = _data_folder(), self.origin()
        paths, probability, types = read_labels(folder / "labels.csv")
        protocol, reserved = self._options.protocol, self._options.reserved_defects
        split = (
            peer_split(probability, reserved)
            if protocol == "peer-0"
            else block_split(probability, int(protocol.removeprefix("blocks-")), reserved)
        )
        split_of = {int(row): Split(kind) for kind, rows in split._asdict().items() for row in rows}
        for row, (path, p, cell) in enumerate(zip(paths, probability, types, strict=True)):
            if row not in split_of:
                detail = f"{cell}, defect probability {p:.2f}: not used by protocol {protocol}"
                yield Refused(path, "not-in-protocol", detail)
                continue
            defective = bool(p > 0.5)
            yield Candidate(
                origin=path,
                target=Path(path).name,
                content=folder / path,
                split=split_of[row],
                label=int(defective),
                category=cell,
                defect="defective" if defective else None,
                source=source,
                licence=LICENCE,
            )


def _data_folder() -> Path:
    """The package's data folder, found without importing the package: its loader decodes every image."""
    spec = find_spec("elpv_dataset")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    if folder is None or not (folder / "labels.csv").is_file():
        raise DataUnavailable(
            "the ELPV images are not installed",
            seen=f"no labels.csv of {PACKAGE}",
            next_step=f"pip install {PACKAGE}==1.0.0.post1",
        )
    return folder


def read_labels(path: Path) -> tuple[list[str], NDArray[np.float64], list[str]]:
    """Relative paths, defect probabilities and cell types of labels.csv (separated by white space, no header)."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row[0] for row in rows], np.array([float(row[1]) for row in rows]), [row[2] for row in rows]
