"""The blocks of params.yaml, each a frozen typed value with its defaults."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
MethodName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
SidePx = Annotated[int, Field(ge=16, le=65_536)]
MOST_AT_ONCE_PX = 4096  # longest side of an image that a detector looks at as a whole
_SHARD_BATCHES = 2  # a shard holds the pictures of its rows, a batch what a detector makes of its images
BATCH_PX = 16_000_000  # values (pixels times channels) of the images of one batch
LARGE_PX = 2**20  # values of an image from which on one by one is quick enough, and memory is what counts


def can_name_a_dataset(name: str) -> bool:
    """Whether it is lower case letters, digits and dashes, at most 63: no path, no option, nothing that a shell runs.

    >>> can_name_a_dataset("screws-2"), can_name_a_dataset("../screws"), can_name_a_dataset("screws\\n")
    (True, False, False)
    """
    return re.fullmatch(_NAME.strip("^$"), name) is not None


def fitting(most: int, shape: Sequence[int], batch_px: int = BATCH_PX) -> int:
    """Images of a shape (C, H, W) in one batch: `most`, fewer where they have more values together, one at least.

    Images of more than a million values go one by one: :func:`at_once` says how many of them side by side.
    """
    values = max(1, math.prod(shape))
    return 1 if values > LARGE_PX else max(1, min(most, batch_px // values))


def at_once(shape: Sequence[int], batch_px: int = BATCH_PX) -> int:
    """Images of a shape (C, H, W) that all threads together may have at work."""
    return max(1, batch_px // max(1, math.prod(shape)))


class Frozen(BaseModel):
    """Base of every block: unknown keys are refused, values cannot be changed."""

    # A value may be a secret, and pydantic's own message goes into logs as the cause of ours.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _is_web_address(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is never closed, a port that is no number
        good = False
    if not good:
        raise ValueError("must be an address http://... or https://...")
    return value


WebAddress = Annotated[SecretStr, AfterValidator(_is_web_address)]


class JudgeSettings(Frozen):
    """The detector that judges counterfactuals which it had no part in: a registered method and its settings."""

    method: MethodName = "padim"
    settings: dict[str, Any] = Field(default_factory=dict)


def _on_or_off(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class DatasetSettings(Frozen):
    """One product and one split: where its images come from and what a detector sees of them.

    `outliers` names another data set whose train images stand for anything that is not this product; one that serves
    for nothing else has `judged` false and needs no defects of its own. `classes` names what the pixels of scenes are,
    by id; empty for images that have no such map.

    `symmetries` of the product: which copies of a normal image are normal too: `none`; `flips`, mirrored left-right,
    upside down, and both; `square`, those and quarter turns. `aligned`: the same place of two images shows the same
    part of the product; false for textures and for parts in any pose. `bit_depth`: how many bits the camera fills of
    grey values that are stored with 16; images beyond it are refused.

    `exact_shares`: parts that are carved out are exactly `val_share` and `gate_share` of what is there, the first by
    hash; false: each image has that chance by its own hash, so that adding images moves no other.

    `size_px` is the side of the square that images are brought to, or [height, width]. With `tile_px` a detector does
    not look at all of that at once but window by window, squares of this side of which each shows `overlap_px` of the
    next again; see :mod:`xadflow.detectors.tiled`.

    `false_alarm_rate` stands for that of `calibration`, see :meth:`xadflow.settings.params.Settings.false_alarm_rate`.

    `judge` is asked about counterfactuals; null or false: nobody is. See :mod:`xadflow.models.judges.choice` for what
    is used where nothing is said.
    """

    source: MethodName
    size_px: SidePx | tuple[SidePx, SidePx] = 128
    channels: Literal[1, 3] = 3
    bit_depth: Annotated[int, Field(ge=8, le=16)] = 16
    tile_px: Annotated[int, Field(ge=16, le=1024)] | None = None
    overlap_px: Annotated[int, Field(ge=0, le=512)] | None = None
    val_share: Share = 0.2
    gate_share: Share = 0.3
    exact_shares: bool = False
    false_alarm_rate: Share | None = None
    known_used: Count = 20
    outliers: Name | None = None
    judged: bool = True
    classes: Annotated[tuple[Name, ...], Field(max_length=255)] = ()  # 255 is nobody's
    symmetries: Literal["none", "flips", "square"] = "none"
    aligned: bool = True
    judge: Annotated[JudgeSettings | None, BeforeValidator(_on_or_off)] = JudgeSettings()
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width that images are brought to."""
        return (self.size_px, self.size_px) if isinstance(self.size_px, int) else self.size_px

    @property
    def overlap(self) -> int:
        """Pixels that a window shows of the next one: a quarter of its side where nothing is said."""
        return (self.tile_px or 0) // 4 if self.overlap_px is None else self.overlap_px

    @model_validator(mode="after")
    def _fits_at_once(self) -> Self:
        if self.tile_px is None and max(self.shape_px) > MOST_AT_ONCE_PX:
            raise ValueError(
                f"size_px: a side above {MOST_AT_ONCE_PX} px is looked at window by window: set tile_px too, e.g. 128"
            )
        if self.symmetries == "square" and len(set(self.shape_px)) > 1:
            raise ValueError("symmetries: a quarter turn of an image that is no square has another shape: set flips")
        return self


class DetectorSettings(Frozen):
    """One detector to train: a registered method and its settings."""

    method: MethodName
    settings: dict[str, Any] = Field(default_factory=dict)


class CalibrationSettings(Frozen):
    """How a raw score becomes a decision."""

    false_alarm_rate: Share = 0.05


class GeneratorGateSettings(Frozen):
    """What a trained explainer must reach on the gate split; see xadflow.models.gate.judge_generator."""

    min_share_normal: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    max_likeness: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.5
    min_apart: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005
    max_frechet: Annotated[float, Field(gt=0.0)] = 80.0
    max_change_of_normals: Annotated[float, Field(gt=0.0)] = 0.6
    features: Literal["lite0", "mobilenet_v2"] = "mobilenet_v2"
    images: Annotated[int, Field(ge=2)] = 256


class GateSettings(Frozen):
    """What a challenger must reach on the gate split; see xadflow.models.gate."""

    min_auroc: Annotated[float, Field(ge=0.0, le=1.0)] = 0.75
    max_auroc_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    min_flip_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    max_flip_rate_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    min_change_inside: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    min_transfer: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    min_images: Positive = 5
    explained: Positive = 48
    generator: GeneratorGateSettings = GeneratorGateSettings()


class TrainedForSettings(Frozen):
    """Which detectors on which data sets get an explainer of their own; `settings` go before those of the explainer
    there.
    """

    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    detectors: Annotated[tuple[MethodName, ...], Field(min_length=1)]
    settings: dict[str, Any] = Field(default_factory=dict)


def _one_or_several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


TrainedFor = Annotated[tuple[TrainedForSettings, ...], BeforeValidator(_one_or_several), Field(min_length=1)]


class RetrainSettings(Frozen):
    """What the weekly flow trains; each of `seeds` (by default the project's one) becomes a version of its own.

    `explainers` are those that have to be trained, each for the champions of some detectors on some data sets: one such
    block, or a list of them, of which the first that names data set and detector counts. `memory_mb`: what the features
    of training images may take together.
    """

    datasets: tuple[Name, ...]
    detectors: tuple[MethodName, ...]
    explainers: dict[MethodName, TrainedFor] = Field(default_factory=dict)
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    memory_mb: Positive = 8000


class ExplainSettings(Frozen):
    """What the nightly flow explains, and in which portions; explainers trained for a detector join those
    named here. `batch_px` bounds the values of the images of one batch; of images of more than a million values, which
    go one by one, of all that are at work; and twice as many are in one shard.
    """

    datasets: tuple[Name, ...]
    explainers: tuple[MethodName, ...]
    shard_size: Positive = 100
    batch_size: Positive = 32
    batch_px: Positive = BATCH_PX

    def batch_of(self, shape: Sequence[int]) -> int:
        """Images of this shape (C, H, W) in one batch: `batch_size`, fewer where they have more than `batch_px` values
        together, one at least.
        """
        return fitting(self.batch_size, shape, self.batch_px)

    def shard_of(self, shape: Sequence[int]) -> int:
        """Images of this shape (C, H, W) in one shard, whose pictures are in memory together: `shard_size`, fewer where
        they are large, one at least.
        """
        return max(1, min(self.shard_size, _SHARD_BATCHES * self.batch_px // max(1, math.prod(shape))))


class DemoSettings(Frozen):
    """The night of `xadflow demo`: how many labelled test images stand for new ones.

    `detector` None: the first of retrain.detectors.
    """

    dataset: Name
    detector: MethodName | None = None
    anomalies: Positive = 150
    normals: Count = 50


class DemosSettings(DemoSettings):
    """`xadflow demo`, and beside it `xadflow demo --diverse`, None where there is none."""

    diverse: DemoSettings | None = None


class LimitSettings(Frozen):
    """What an image file may be at most; above it is quarantined.

    `max_decode_s` and `max_decode_mb`: processor time and memory beyond which the decoding of one file is ended.
    """

    max_bytes: Positive = 100_000_000
    max_side_px: Positive = 20_000
    max_pixels: Positive = 100_000_000
    max_decode_s: Positive = 60
    max_decode_mb: Positive = 3000


class EvidenceSettings(Frozen):
    """Anchors of the ledger beside MLflow, see docs/explanation/threat-model.md; paths are relative to the project.

    `anchor_file` gets every head of the ledger as a line of its own; it belongs to this project alone. `signing_key` is
    an Ed25519 private key, PEM without a passphrase, that signs those lines.
    """

    anchor_file: Path | None = None
    signing_key: Path | None = None

    @model_validator(mode="after")
    def _a_key_has_something_to_sign(self) -> EvidenceSettings:
        if self.signing_key is not None and self.anchor_file is None:
            raise ValueError("signing_key signs the lines of anchor_file, so anchor_file must be set too")
        return self


class NotifySettings(Frozen):
    """Where a failed flow is reported beside the log: a webhook that takes a JSON POST, or nowhere.

    Such an address often holds a token, so it is never shown; $XADFLOW_WEBHOOK goes before it, and stays out of git.
    """

    webhook: WebAddress | None = None
