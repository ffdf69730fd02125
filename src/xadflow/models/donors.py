"""Open the bank of donors of a detector version: the ids that were registered with it, the pixels from its data set.

Nights, gate and replay all come here, so that a donor that is gone, changed, or no train normal any more serves
nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Manifest, ManifestRow, Split, read_manifest
from xadflow.detectors.base import CARD as DETECTOR_CARD
from xadflow.errors import BadImage, BadManifest, NoDonors, UnknownName
from xadflow.explainers.base import TakesDonors
from xadflow.explainers.transplant.bank import DonorBank, DonorList
from xadflow.images.reading import MOST_BITS
from xadflow.settings import DatasetSettings, Home, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from xadflow.explainers.base import Explainer


@dataclass(frozen=True)
class Opened:
    """The bank of a version, or why there is none; `listed` are the ids it was registered with."""

    bank: DonorBank | None
    why_none: str = ""
    listed: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What a detector sees of an image: its input, and of how many bits of deep grey values that was made."""

    channels: int
    height: int
    width: int
    bit_depth: int


def open_bank(home: Home, settings: Settings, detector_folder: Path, dataset: str) -> DonorBank | None:
    """The donors of the detector saved in a folder that are still there; None without any, see :func:`opened_bank`."""
    return opened_bank(home, settings, detector_folder, dataset).bank


def opened_bank(home: Home, settings: Settings, detector_folder: Path, dataset: str) -> Opened:
    """The bank of the detector saved in a folder, or why there is none; its pixels are read once a process.

    A donor is left out, and counted as missing, when its file is gone or has other bytes than its id says, or when it
    is no train normal of the data set any more. What is on the disk is looked at each time: one erased since serves no
    more.

    Raises BadWeights for a list of donors that is none.
    """
    listed = DonorList.load(detector_folder)
    if listed is None:
        return Opened(
            None,
            "This version was registered before donors were kept; `xadflow retrain --dataset "
            f"{dataset}` registers one with donors.",
        )
    if not listed.ids:
        return Opened(None, "No train normal could be a donor: this version flags all of them.")
    folder = home.dataset(dataset)
    try:
        own, manifest = settings.dataset(dataset), read_manifest(folder)
    except (UnknownName, BadManifest) as err:
        return Opened(
            None,
            f"Its {len(listed.ids)} donors are in the data set {dataset}, which cannot be read: {err.wrong}; "
            f"`dvc repro validate@{dataset}` brings it back.",
            listed.ids,
        )
    rows = _rows(manifest, listed.ids)
    seen = _seen_by(detector_folder) or Seen(own.channels, *own.shape_px, own.bit_depth)
    found, images = _pixels(folder, tuple(rows), _stamps(folder, rows), seen)
    if not found:
        gone = "Its only donor is" if len(listed.ids) == 1 else f"All of its {len(listed.ids)} donors are"
        return Opened(
            None,
            f"{gone} gone from {dataset}, or changed since; `xadflow retrain "
            f"--dataset {dataset}` chooses new ones with a new version.",
            listed.ids,
        )
    return Opened(DonorBank.of(listed, found, images), "", listed.ids)


def given_donors(
    explainer: Explainer, home: Home, settings: Settings, detector_folder: Path, dataset: str
) -> tuple[Explainer, dict[str, Any]]:
    """The explainer with the donors of a detector version, if it takes any, and what a lineage says of them.

    Raises NoDonors when there are none.
    """
    if not isinstance(explainer, TakesDonors):
        return explainer, {}
    opened = opened_bank(home, settings, detector_folder, dataset)
    if opened.bank is None:
        raise NoDonors(
            f"the explainer {explainer.name} has no donors",
            seen=opened.why_none,
            next_step=f"run `xadflow retrain --dataset {dataset}`",
        )
    return explainer.with_donors(opened.bank), {"donors": opened.bank.digest, "donors_missing": opened.bank.missing}


@lru_cache(maxsize=4)
def _pixels(
    folder: Path, rows: tuple[ManifestRow, ...], stamps: tuple[tuple[int, int], ...], seen: Seen
) -> tuple[tuple[str, ...], Tensor]:
    """Ids of those rows whose file has the bytes of its id, and their images; `stamps` say of which state
    of the files.
    """
    import torch

    whole = DatasetSettings(source="folder", channels=1 if seen.channels == 1 else 3, bit_depth=seen.bit_depth)
    size_px = seen.height, seen.width
    dataset = whole.model_copy(update={"size_px": size_px})  # of a detector that is there: no rule of params.yaml
    manifest = read_manifest(folder)
    try:
        return tuple(row.image_id for row in rows), load_images(manifest, rows, dataset)
    except (BadImage, BadManifest):
        pass  # one at least is not what it was: which?
    found, images = list[str](), [torch.zeros(0, seen.channels, *size_px, dtype=torch.uint8)]
    for row in rows:
        with suppress(BadImage, BadManifest):
            images.append(load_images(manifest, [row], dataset))
            found.append(row.image_id)
    return tuple(found), torch.cat(images)


def _rows(manifest: Manifest, ids: Sequence[str]) -> list[ManifestRow]:
    """Rows of the donors that are train normals still, in the order they were chosen."""
    normals = {row.image_id: row for row in manifest.rows(Split.TRAIN, label=0)}
    return [normals[one] for one in ids if one in normals]


def _stamps(folder: Path, rows: Sequence[ManifestRow]) -> tuple[tuple[int, int], ...]:
    """Size and time of each file, (-1, 0) of one that is gone: a bank that is kept in memory is of these files."""
    found = []
    for row in rows:
        try:
            its = (folder / row.path).stat()
            found.append((its.st_size, its.st_mtime_ns))
        except OSError:
            found.append((-1, 0))
    return tuple(found)


def _seen_by(detector_folder: Path) -> Seen | None:
    """What a saved detector sees; None where its card does not tell."""
    try:
        card: Mapping[str, Any] = json.loads((detector_folder / DETECTOR_CARD).read_text(encoding="utf-8"))
        channels, height, width = map(int, card["input_shape"])
        return Seen(channels, height, width, int(card.get("bit_depth", MOST_BITS)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
