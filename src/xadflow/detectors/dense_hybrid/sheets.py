"""Sample sheets of a training: held-out scenes as the net sees them, and with the seeded pastes of the validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.networks import SceneNet
from xadflow.detectors.dense_hybrid.reading import LN_P_OUT, MINUS_LN_P_HAT, read
from xadflow.detectors.dense_hybrid.scenes import Scenes
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings
from xadflow.detectors.dense_hybrid.validation import validation_batches
from xadflow.images import as_float, encode_png, to_levels
from xadflow.pictures.tile_sheet import Tile, tile_sheet

IMAGES = 4


def closed_sheet(net: SceneNet, scenes: Scenes) -> bytes:
    """PNG of rows scene, labels, closed map."""
    images, labels = as_float(scenes.images[:IMAGES]), scenes.labels[:IMAGES]
    seen = read(net, images).class_logits.argmax(dim=1)
    return _drawn(net, [("scene", images), ("labels", labels), ("closed map", seen)])


def hybrid_sheet(net: SceneNet, settings: DenseHybridSettings, scenes: Scenes, seed: int) -> bytes:
    """PNG of rows scene with pastes, where they are, closed map, ln P(d_out|x), -ln p_hat(x), and their sum."""
    mixed = next(iter(validation_batches(scenes, settings, seed, IMAGES)))
    reading = read(net, mixed.images)
    return _drawn(
        net,
        [
            ("scene", mixed.images),
            ("pasted", mixed.pasted.float()),
            ("closed map", reading.class_logits.argmax(dim=1)),
            ("ln P(d_out|x)", reading.parts[LN_P_OUT]),
            ("-ln p(x)", reading.parts[MINUS_LN_P_HAT]),
            ("hybrid", reading.map("hybrid")),
        ],
    )


def _drawn(net: SceneNet, rows: Sequence[tuple[str, Tensor]]) -> bytes:
    tiles = [
        _tile(net, name if column == 0 else "", value) for name, values in rows for column, value in enumerate(values)
    ]
    return encode_png(tile_sheet(tiles, columns=len(rows[0][1])))


def _tile(net: SceneNet, name: str, value: Tensor) -> Tile:
    if value.ndim == 3:
        return Tile(name, to_levels(value).cpu().numpy())
    if value.is_floating_point():
        return Tile(name, np.asarray(value.cpu().numpy()))
    ids = torch.where(value == VOID, net.num_classes, value.long())  # void is the brightest
    return Tile(name, np.asarray(ids.float().cpu().numpy()), limits=(0.0, float(net.num_classes)))
