"""Sample sheets of a training: a few normals, and a few with a drawn defect, as the stages see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors.utad.expert_net import Expert
from xadflow.detectors.utad.impression_net import ImpressionNet
from xadflow.detectors.utad.maps import grey
from xadflow.images import as_float, encode_png, to_levels
from xadflow.pictures.tile_sheet import Tile, tile_sheet
from xadflow.training.seeds import seeded

IMAGES = 3  # of each kind


def impression_sheet(impress: ImpressionNet, normals: Tensor) -> bytes:
    """PNG of rows input, m, |x - m|."""
    x = _examples(normals)
    m = impress(x).m
    return _drawn([("input", x), ("impression m", m), ("|x - m|", grey(x - m).abs()[:, 0])])


def expert_sheet(impress: ImpressionNet, expert: Expert, normals: Tensor) -> bytes:
    """PNG of rows input, m, x_hat, m_hat, |x - x_hat|."""
    x = _examples(normals)
    m = impress(x).m
    x_hat = expert.image(m, expert.detail(x).flatten(1))
    d = torch.randn(1, expert.settings.detail, generator=seeded(0, "sheet", device=x.device), device=x.device)
    m_hat = expert.impression(x, d.expand(len(x), -1))
    return _drawn(
        [
            ("input", x),
            ("impression m", m),
            ("expert x_hat", x_hat),
            ("naive m_hat", m_hat),
            ("|x - x_hat|", grey(x - x_hat).abs()[:, 0]),
        ]
    )


def _examples(normals: Tensor) -> Tensor:
    some = normals[:IMAGES]
    defective, _ = synthetic_defects(some, seeded(0, "sheet", device=some.device))
    return as_float(torch.cat([some, defective]))


def _drawn(rows: Sequence[tuple[str, Tensor]]) -> bytes:
    tiles = [
        Tile(name if column == 0 else "", _picture(value))
        for name, values in rows
        for column, value in enumerate(values)
    ]
    return encode_png(tile_sheet(tiles, columns=len(rows[0][1])))


def _picture(values: Tensor) -> NDArray[Any]:
    """Images as 8 bits, maps as they are."""
    if values.ndim == 2:
        return np.asarray(values.float().cpu().numpy())
    return np.asarray(to_levels(values).cpu().numpy())
