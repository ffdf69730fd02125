"""From manifest rows to tensors: files are read, compared with their hash, decoded and resized by a few threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.datasets.manifest import Manifest, ManifestRow, Split
from xadflow.datasets.training_data import TrainingData
from xadflow.errors import BadImage, BadManifest
from xadflow.images import (
    VOID,
    ImageLimits,
    decode_image,
    decode_mask,
    labels_to_input,
    mask_to_input,
    read_file,
    to_input,
)
from xadflow.images.reading import MOST_BITS
from xadflow.settings import DatasetSettings

_MOST_S, _BYTES_A_PIXEL = 3600, 40  # of one picture: what params.yaml allowed at the border may be more than usual
_WORKERS = max(2, min(16, os.cpu_count() or 2))


def load_images(
    manifest: Manifest,
    rows: Sequence[ManifestRow],
    dataset: DatasetSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Images of `rows`, in their order: uint8 [N,C,H,W] with (H, W) = dataset.shape_px, C = dataset.channels.

    Raises:
        BadImage: a file that is missing, cannot be decoded, or has other bytes than the manifest says; names its path.
    """
    size, channels = dataset.shape_px, dataset.channels
    images = torch.empty((len(rows), channels, *size), dtype=torch.uint8)
    into = images.numpy()

    def load(number: int) -> None:
        row = rows[number]
        pixels = decoded(manifest.path_of(row), row, row.image_id, max_bits=dataset.bit_depth)
        into[number] = to_input(pixels, size, channels)

    _each(load, len(rows), progress)
    return images


def load_masks(manifest: Manifest, rows: Sequence[ManifestRow], dataset: DatasetSettings) -> Tensor:
    """Masks of `rows`, in their order: bool [N,H,W], True = defect; empty for normal images.

    Raises:
        BadManifest: an image that is not normal has no mask.
        BadImage: a mask that is missing or cannot be decoded; names its path.
    """
    size = dataset.shape_px
    masks = torch.zeros((len(rows), *size), dtype=torch.bool)
    into = masks.numpy()

    def load(number: int) -> None:
        row = rows[number]
        path = manifest.mask_of(row)
        if path is not None:
            into[number] = mask_to_input(decoded(path, row, decode=decode_mask), size)
        elif row.label != 0:
            raise BadManifest(
                "an image that is not normal has no mask",
                seen=row.path,
                next_step="ask for masks only where the manifest has them",
            )

    _each(load, len(rows), None)
    return masks


def load_labels(manifest: Manifest, rows: Sequence[ManifestRow], dataset: DatasetSettings) -> Tensor:
    """Class ids of scenes `rows`, in their order: uint8 [N,H,W], below len(dataset.classes), or VOID, also under the
    mask.

    Raises:
        BadManifest: a scene has no map of class ids, or one with an id that names no class.
        BadImage: a map that is missing or cannot be decoded; names its path.
    """
    size = dataset.shape_px
    labels = torch.empty((len(rows), *size), dtype=torch.uint8)
    into = labels.numpy()

    def load(number: int) -> None:
        row = rows[number]
        path, mask = manifest.labels_of(row), manifest.mask_of(row)
        if path is None:
            raise BadManifest(
                "a scene has no map of class ids",
                seen=row.path,
                next_step="its source must give one; or take `classes` out of the data set in params.yaml",
            )
        found = labels_to_input(decoded(path, row), size)
        if np.any((found >= len(dataset.classes)) & (found != VOID)):
            raise BadManifest(
                "a map of class ids names a class that params.yaml does not",
                seen=f"{row.labels_path}: {np.unique(found[found != VOID]).max()}, classes: {len(dataset.classes)}",
                next_step="complete `classes` of the data set in params.yaml, or mend the map",
            )
        into[number] = (
            found
            if mask is None
            else np.where(mask_to_input(decoded(mask, row, decode=decode_mask), size), VOID, found)
        )

    _each(load, len(rows), None)
    return labels


def training_data(
    manifest: Manifest,
    dataset: DatasetSettings,
    progress: Callable[[int, int], None] | None = None,
    *,
    outliers: Manifest | None = None,
    normals: Collection[str] | None = None,
) -> TrainingData:
    """What a detector may learn from: train and val normals, and the labelled defects of split `known`.

    The first `dataset.known_used` known defects by image_id train, the others fit the temperature. Masks are given when
    every training defect has one; scenes come with the class ids of their normals. `outliers` is the manifest of
    `dataset.outliers`: its train normals are brought to this data set's size and channels, except images that are here
    too. Of the train normals those with an image_id in `normals` are taken, None for all. Raises BadManifest and
    BadImage.
    """
    train = [row for row in manifest.rows(Split.TRAIN, label=0) if normals is None or row.image_id in normals]
    val_normals = manifest.rows(Split.VAL, label=0)
    defects = manifest.rows(Split.KNOWN, label=1)
    known, others = defects[: dataset.known_used], defects[dataset.known_used :]
    images = load_images(manifest, [*train, *val_normals, *known, *others], dataset, progress)
    ends = np.cumsum([len(train), len(val_normals), len(known)]).tolist()
    masks = load_masks(manifest, known, dataset) if known and all(row.mask_path for row in known) else None
    foreign = images[:0]
    if outliers is not None:
        own = {row.image_id for row in manifest.rows()}
        theirs = outliers.rows(Split.TRAIN, label=0)
        rows = [row for row in theirs if row.image_id not in own]
        if not rows:
            there = f"{dataset.outliers}: {len(theirs)} normal train images, all of them in this data set too"
            raise BadManifest(
                "the data set of outliers has no train image of its own",
                seen=there if theirs else f"{dataset.outliers}: no normal train image",
                next_step="name another data set under outliers in params.yaml, or add images to that one "
                f"and run `dvc repro validate@{dataset.outliers}`",
            )
        foreign = load_images(outliers, rows, dataset, progress)
    labels, val_labels = (
        load_labels(manifest, rows, dataset) if dataset.classes else None for rows in (train, val_normals)
    )
    return TrainingData(
        images[: ends[0]],
        images[ends[0] : ends[1]],
        images[ends[1] : ends[2]],
        masks,
        images[ends[2] :],
        foreign,
        labels,
        val_labels,
        dataset.classes,
    )


def decoded(
    path: Path,
    row: ManifestRow,
    image_id: str | None = None,
    *,
    max_bits: int = MOST_BITS,
    decode: Callable[[bytes, ImageLimits], NDArray[np.uint8]] = decode_image,
) -> NDArray[np.uint8]:
    """Pixels of one of a row's pictures; with `image_id` only if the file still has those bytes.

    All pictures of a row are of its size: that is the limit here, those of params.yaml were asked at the border.
    """
    pixels = row.width * row.height
    limits = ImageLimits(
        ImageLimits.max_bytes + 8 * pixels,
        max(row.width, row.height),
        pixels,
        max_bits,
        max_decode_s=_MOST_S,
        max_decode_mb=max(ImageLimits.max_decode_mb, _BYTES_A_PIXEL * pixels // 1_000_000),
    )
    try:
        return decode(read_file(path, limits, image_id=image_id), limits)
    except BadImage as err:
        raise BadImage(f"{_shown(path)}: {err.wrong}", seen=err.seen, next_step=err.next_step) from err


def _shown(path: Path) -> str:
    """The path from images/ on: where a file is, without the machine it is on."""
    parts = path.parts
    return "/".join(parts[len(parts) - 1 - parts[::-1].index("images") :] if "images" in parts else parts[-1:])


def _each(load: Callable[[int], None], count: int, progress: Callable[[int, int], None] | None) -> None:
    """Run `load` for 0 .. count-1 in threads; the first error stops the rest."""
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="loading")
    try:
        for done, _ in enumerate(pool.map(load, range(count)), start=1):
            if progress:
                progress(done, count)
    finally:
        pool.shutdown(cancel_futures=True)
