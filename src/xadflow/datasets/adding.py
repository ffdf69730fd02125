"""`xadflow data add`: a user's folder becomes a data set of the project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from statistics import median

import numpy as np

from xadflow.datasets.in_use import using
from xadflow.datasets.params_file import replace_params, with_dataset, with_name_in
from xadflow.datasets.poses import SIDE_PX, Pose, Symmetries, guess_pose
from xadflow.datasets.removing import undo_addition
from xadflow.datasets.reproducing import reproduce
from xadflow.datasets.shares import count_images, shares_of
from xadflow.datasets.sources.folder import GOOD, check_layout, walk_files
from xadflow.datasets.writing import writing
from xadflow.errors import BadImage, DataUnavailable, StageFailed, WrongUse, XadflowError
from xadflow.images import IMAGE_SUFFIXES, ImageLimits, decode_image, read_file, to_input
from xadflow.images.decoding import deepest_value
from xadflow.images.reading import MOST_BITS
from xadflow.settings import Home, Settings, load_settings
from xadflow.settings.blocks import MOST_AT_ONCE_PX, can_name_a_dataset

_SAMPLED = 24
_SIZES_PX = (224, 128, 96, 64, 32)
_SQUARE = 1.1  # sides that differ by less than this make a square; a longer image keeps its shape
_MUCH_SMALLER = 4.0  # shorter sides of images to that of what is seen of them, from which on it is said
_SIDE_STEP_PX = 16  # of the longer side of an image that is no square
_WORKERS = 4
_BITS = (8, 10, 12, 14, MOST_BITS)  # what cameras fill


@dataclass(frozen=True)
class Look:
    """What a sample of a folder's train normals looks like, and how many there are.

    `size_px` as in params.yaml; `own_px` is the median height and width of the images themselves.
    """

    size_px: int | tuple[int, int]
    channels: int
    train_normals: int
    pose: Pose
    bit_depth: int = MOST_BITS
    own_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Wishes:
    """What a user states of a new data set; None is guessed."""

    size_px: int | None = None
    tile_px: int | None = None
    channels: int | None = None
    known_per_defect: int = 0
    known_used: int = 0
    symmetries: Symmetries | None = None
    aligned: bool | None = None
    val_share: float | None = None
    bit_depth: int | None = None


@dataclass(frozen=True)
class Added:
    """The entry of params.yaml, and what of it was guessed from a look at the images; None where nothing had to be."""

    entry: Mapping[str, object]
    look: Look | None
    warning: str | None = None


def look_at(folder: Path, limits: ImageLimits, bits: int | None = None) -> Look:
    """Guess a detector's input from up to 24 train normals, evenly spread; nothing is copied.

    The size is the largest of 224, 128, 96, 64, 32 that is at most the median shorter side (224 only from 448 px on: it
    costs three times 128); for images that are no squares it is the shorter side, and the longer one is as much longer
    as theirs. Grey unless an image has colour; pose and symmetries as :func:`guess_pose` finds them. Where one of them
    is grey of more than 8 bits, all images of the folder are asked how many bits they fill, unless `bits` says so.

    Raises DataUnavailable for another layout, or when no sampled file is an image.
    """
    check_layout(folder)
    normals = [
        relative
        for relative in walk_files(folder)
        if relative.startswith(f"train/{GOOD}/") and PurePosixPath(relative).suffix.lower() in IMAGE_SUFFIXES
    ]
    step = max(1, len(normals) // _SAMPLED)
    bits = bits or _bit_depth(folder, normals[::step][:_SAMPLED], limits)
    limits = replace(limits, max_bits=bits)
    sides, coloured, greys, refused = [], False, [], list[BadImage]()
    for relative in normals[::step][:_SAMPLED]:
        try:
            pixels = decode_image(read_file(folder / relative, limits, root=folder), limits)
        except BadImage as err:
            refused.append(err)  # the border quarantines it with its reason
            continue
        sides.append(pixels.shape[:2])
        greys.append(to_input(pixels, (SIDE_PX, SIDE_PX), 1)[0])
        coloured |= pixels.ndim == 3 and bool(np.any(pixels[..., :1] != pixels[..., 1:]))
    if not sides:
        raise _no_normal(folder, len(normals), refused)
    own = (int(median(high for high, _ in sides)), int(median(wide for _, wide in sides)))
    short = median(min(one) for one in sides)
    size = next((size for size in _SIZES_PX if short >= (448 if size == 224 else size)), _SIZES_PX[-1])
    return Look(in_shape(size, own), 3 if coloured else 1, len(normals), guess_pose(greys), bits, own)


def _no_normal(folder: Path, files: int, refused: Sequence[BadImage]) -> DataUnavailable:
    """None of the train normals can be used: for the reason that most of those looked at have, and its way out."""
    if not refused:
        return DataUnavailable(
            "no image in train/good",
            seen=f"{files} files with an image suffix",
            next_step=f"put normal images into {folder / 'train' / GOOD}",
        )
    (reason, count), *_ = Counter(one.reason for one in refused).most_common(1)
    first = next(one for one in refused if one.reason == reason)
    share = f"{count} of {len(refused)} files looked at refused as {reason}, {files} in all"
    return DataUnavailable(
        "no readable image in train/good", seen=f"{share}; the first: {first.detail}", next_step=first.next_step
    )


def _bit_depth(folder: Path, sample: Sequence[str], limits: ImageLimits) -> int:
    """The bits, one of 8, 10, 12, 14 and 16, that the values of the folder's deep grey images need; 16 without any."""

    def most_of(relative: str) -> int | None:
        try:
            return deepest_value(read_file(folder / relative, limits, root=folder), limits)
        except BadImage:
            return None  # the border quarantines it with its reason

    if all(most_of(relative) is None for relative in sample):
        return MOST_BITS
    images = [
        relative
        for relative in walk_files(folder)
        if relative.startswith(("train/", "test/")) and PurePosixPath(relative).suffix.lower() in IMAGE_SUFFIXES
    ]
    with ThreadPoolExecutor(_WORKERS) as pool:
        most = max(filter(None, pool.map(most_of, images)), default=0)
    return next((bits for bits in _BITS if 0 < most < 1 << bits), MOST_BITS)


def in_shape(short: int, own: tuple[int, int]) -> int | tuple[int, int]:
    """Size of an input whose shorter side is `short`, of the shape of images (height, width): a side, or both.

    The longer side is a multiple of 16 px; where it would be longer than a detector looks at as a whole, both are less.

    >>> in_shape(224, (1600, 2400)), in_shape(224, (500, 512)), in_shape(224, (24000, 512))
    ((224, 336), 224, (4096, 87))
    """
    height, width = own
    longer, shorter = max(own), max(1, min(own))
    if longer < _SQUARE * shorter:
        return short
    long = max(short, round(short * longer / shorter / _SIDE_STEP_PX) * _SIDE_STEP_PX)
    if long > MOST_AT_ONCE_PX:
        long, short = MOST_AT_ONCE_PX, max(_SIDE_STEP_PX, round(MOST_AT_ONCE_PX * shorter / longer))
    return (long, short) if height > width else (short, long)


def add_folder(home: Home, name: str, folder: Path, wishes: Wishes) -> Added:
    """Enter the folder into params.yaml, build and validate the data set by DVC, then list it for both flows.

    A folder that is a data set of this name already is brought up to date. When adding a new one fails, wherever,
    nothing of it stays but bytes in DVC's cache.

    Raises:
        WrongUse: a name that cannot be used, or that another data set has.
        DataUnavailable: a layout that is not MVTec-AD, a folder without images.
        TooFewNormals: too few to hold out what the threshold needs.
        StageFailed: DVC or a stage failed.
        CannotWrite: params.yaml cannot be written.
    """
    if not can_name_a_dataset(name):
        raise WrongUse(
            "a data set's name is lower case letters, digits and dashes, at most 63",
            seen=name,
            next_step="choose another name",
        )
    settings = load_settings(home.params)
    path = _stored(home, folder)
    before = home.params.read_text(encoding="utf-8")
    if name in settings.datasets:
        if wishes != Wishes():
            raise WrongUse(
                f"data set {name!r} is there already; options only make a new one",
                seen=f"folder {path}",
                next_step=f"change them under datasets.{name} in params.yaml, leave them out, or begin anew by "
                f"`xadflow data remove {name}`",
            )
        entry, look = _same(settings, name, path), None
        check_layout(folder)
    else:
        limits = ImageLimits(**settings.limits.model_dump())
        look = look_at(folder, limits, wishes.bit_depth)
        counts = count_images(folder, limits, wishes.known_per_defect)
        shares = shares_of(
            counts,
            settings.calibration.false_alarm_rate,
            train=_min_train(),
            gate_images=settings.gate.min_images,
            val_share=wishes.val_share,
        )
        options: dict[str, object] = {"path": path}
        if wishes.known_per_defect:
            options["known_per_defect"] = wishes.known_per_defect
        aligned = look.pose.aligned if wishes.aligned is None else wishes.aligned
        size = _size(wishes, look)
        entry = {
            "source": "folder",
            "size_px": size,
            **({"tile_px": wishes.tile_px} if wishes.tile_px else {}),
            "channels": wishes.channels or look.channels,
            **({} if look.bit_depth == MOST_BITS else {"bit_depth": look.bit_depth}),
            "symmetries": wishes.symmetries or _symmetries(aligned, look.pose, size),
            "aligned": aligned,
            "val_share": shares.val,
            "gate_share": shares.gate,
            "exact_shares": True,
            "known_used": wishes.known_used,
            "options": options,
        }
    is_new = name not in settings.datasets
    with using(home, [name]), _undone_if_it_fails(home, name) if is_new else nullcontext():
        if is_new:
            _write_params(home, with_dataset(before, name, entry))
        reproduce(home.project, f"validate@{name}")
        listed = with_name_in(
            home.params.read_text(encoding="utf-8"), name, ("retrain", "datasets"), ("explain", "datasets")
        )
        _write_params(home, listed)
        return Added(entry, look, _warning(home, name, look))


@contextmanager
def _undone_if_it_fails(home: Home, name: str) -> Iterator[None]:
    """Take away what was made of a new data set when the block fails, or is stopped: the next attempt begins anew."""
    try:
        try:
            yield
        except StageFailed as err:  # there will be nothing left that `dvc repro` could run
            again = "mend that, then run the same `xadflow data add` again; nothing of the data set is kept"
            raise StageFailed(err.wrong, seen=err.seen, next_step=again, transient=err.transient) from err
    except BaseException as err:
        try:
            undo_addition(home, name)
        except (XadflowError, OSError) as left:
            err.add_note(f"not all that it made could be taken away: {left}; `xadflow data remove {name}` does that")
        raise


def _warning(home: Home, name: str, look: Look | None) -> str | None:
    """What a detector of this data set will not see: of its masks, else of how much smaller the images become."""
    from xadflow.datasets.manifest import read_manifest
    from xadflow.datasets.smallest_defect import LEAST_PX, defect_warning

    its, manifest = load_settings(home.params).dataset(name), read_manifest(home.dataset(name))
    if any(row.mask_path for row in manifest.rows()):
        return defect_warning(manifest, manifest.rows(), name, its)
    if look is None or its.tile_px is not None:
        return None
    times = min(look.own_px) / min(its.shape_px)
    if times < _MUCH_SMALLER:
        return None
    return (
        f"The images become {times:.1f} times smaller: a defect of less than {LEAST_PX * times:.0f} px is not seen. "
        f"To look at them at full size: set size_px: [{look.own_px[0]}, {look.own_px[1]}] and tile_px: 128 under "
        f"datasets.{name} in params.yaml."
    )


def _symmetries(aligned: bool, pose: Pose, size: int | list[int]) -> Symmetries:
    """What was guessed; a quarter turn of an image that is no square has another shape."""
    if aligned:
        return "none"
    return pose.loose if isinstance(size, int) or size[0] == size[1] or pose.loose != "square" else "flips"


def _size(wishes: Wishes, look: Look) -> int | list[int]:
    """What is stated, else with windows the images' own size, else what was guessed: a side, or height and width."""
    if wishes.size_px is not None:
        size = in_shape(wishes.size_px, look.own_px)
    else:
        size = look.own_px if wishes.tile_px else look.size_px
    return size if isinstance(size, int) else list(size)


def _min_train() -> int:
    from xadflow.datasets.quality_frames import MIN_TRAIN  # brings pandas in

    return MIN_TRAIN


def _write_params(home: Home, text: str) -> None:
    with writing("params.yaml"):
        replace_params(home.params, text)


def _stored(home: Home, folder: Path) -> str:
    """The folder as params.yaml states it: relative to the project when it lies inside."""
    absolute = folder.expanduser().absolute()
    try:
        str(absolute).encode()
    except UnicodeEncodeError as err:
        raise WrongUse(
            "the folder's name is no text",
            seen=str(absolute).encode(errors="backslashreplace").decode(),
            next_step="rename the folder",
        ) from err
    return str(absolute.relative_to(home.project)) if absolute.is_relative_to(home.project) else str(absolute)


def _same(settings: Settings, name: str, path: str) -> Mapping[str, object]:
    present = settings.datasets[name]
    if present.source != "folder" or present.options.get("path") != path:
        raise WrongUse(
            f"data set {name!r} is there already, with other images",
            seen=f"source {present.source}, options {present.options}",
            next_step="choose another name, or mend its entry in params.yaml",
        )
    return present.model_dump()
