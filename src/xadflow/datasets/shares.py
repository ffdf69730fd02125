"""How the images of a new folder are shared out: enough for the threshold, for training, and for the gate.

The shares become `val_share` and `gate_share` of the data set's entry, with `exact_shares`, so that what is worked out
here is what `xadflow.datasets.stages.carve` takes.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xadflow.datasets.sources.folder import GOOD, walk_files
from xadflow.datasets.stages import HOLDOUT_SHARE
from xadflow.digests import sha256_bytes
from xadflow.errors import BadImage, TooFewNormals
from xadflow.images import IMAGE_SUFFIXES, ImageLimits, decode_image, read_file
from xadflow.settings.blocks import DatasetSettings

# Enough expected val normals that a threshold at a false-alarm rate of 5 % (19 needed) is there, and not too coarse.
_VAL_WANTED = 40
_FEW = 400  # train normals, up to which they are looked at one by one: copies and broken files do not count
_MOST_OF_TEST = 0.75  # what the gate may take of it


@dataclass(frozen=True)
class Counts:
    """Images of a folder that can be shared out."""

    train_normals: int
    test_normals: int
    test_defects: int

    @property
    def for_training(self) -> int:
        """Train normals after some were held out for test, where a folder has no normal test images."""
        return self.train_normals - (0 if self.test_normals else self.held_out)

    @property
    def held_out(self) -> int:
        """What `carve` moves from train to test then."""
        return round(HOLDOUT_SHARE * self.train_normals)


@dataclass(frozen=True)
class Shares:
    """`val_share` and `gate_share` of an entry of params.yaml."""

    val: float
    gate: float


def count_images(folder: Path, limits: ImageLimits, known_per_defect: int = 0) -> Counts:
    """Count a folder's images by name; up to 400 train normals by content too. `known_per_defect` leave test."""
    images = [one for one in walk_files(folder) if PurePosixPath(one).suffix.lower() in IMAGE_SUFFIXES]
    train = [one for one in images if one.startswith(f"train/{GOOD}/")]
    normals = sum(one.startswith(f"test/{GOOD}/") for one in images)
    kinds = [PurePosixPath(one).parts[1] for one in images if one.startswith("test/") and one.count("/") > 1]
    defects = sum(max(0, kinds.count(kind) - known_per_defect) for kind in {*kinds} - {GOOD})
    if len(train) > _FEW:
        return Counts(len(train), normals, defects)
    found = set()
    for relative in train:
        with suppress(BadImage):  # the border quarantines it
            content = read_file(folder / relative, limits, root=folder)
            decode_image(content, limits)
            found.add(sha256_bytes(content))
    return Counts(len(found), normals, defects)


def shares_of(
    counts: Counts, false_alarm_rate: float, *, train: int, gate_images: int, val_share: float | None = None
) -> Shares:
    """The shares for a folder: about 40 val normals, at least what the rate needs, and `train` to learn from.

    The gate gets `gate_images` of each kind where test has them, at most three quarters; else DatasetSettings' share.

    Raises:
        TooFewNormals: too few train normals for both, or a `val_share` (as stated by the user) that leaves too few on
            one side. Says how many are there, and what would do.
    """
    there, needed = counts.for_training, max(1, math.ceil(round(1 / false_alarm_rate, 9)) - 1)
    if there < needed + train:
        most = there - train
        rate = math.ceil(10_000 / (most + 1)) / 10_000 if most > 0 else 1.0
        lower = f", or raise calibration.false_alarm_rate in params.yaml to {rate:g}" if rate <= 0.5 else ""
        held = f" ({counts.held_out} more are held out for test)" if there < counts.train_normals else ""
        raise TooFewNormals(
            f"a threshold at a false-alarm rate of {false_alarm_rate:g} needs {needed} normal images that are not "
            f"trained on, and training at least {train}",
            seen=f"{there} in train/{GOOD}{held}",
            next_step=f"add {needed + train - there} or more to train/{GOOD}{lower}",
        )
    wanted = min(0.5, max(0.2, _VAL_WANTED / there))
    count = min(max(round(wanted * there), needed), there - train)
    if val_share is not None and not needed <= (stated := round(val_share * there)) <= there - train:
        raise TooFewNormals(
            f"--val-share {val_share:g} leaves too few normal images on one side: the threshold needs {needed}, "
            f"training {train}",
            seen=f"{stated} and {there - stated} of {there}",
            next_step=f"give --val-share {_share(count, there):g}, or leave it out",
        )
    return Shares(val_share or _share(count, there), _gate_share(counts, gate_images))


def _gate_share(counts: Counts, images: int) -> float:
    """The usual share, or as much more as gives the gate `images` of each kind."""
    usual = float(DatasetSettings.model_fields["gate_share"].default)
    kinds = [one for one in (counts.test_normals or counts.held_out, counts.test_defects) if one]
    short = [one for one in kinds if round(usual * one) < images]
    return max([usual, *(_share(min(images, math.floor(_MOST_OF_TEST * one)), one) for one in short)])


def _share(count: int, of: int) -> float:
    """A share of which :func:`round` gives `count` again, with few digits."""
    return next(share for digits in range(2, 9) if round((share := round(count / of, digits)) * of) == count)
