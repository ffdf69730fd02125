"""Synthetic defects by name: whatever draws them, image and copy differ in the mask alone, for any batch
there can be.
"""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from xadflow.defects.synthesisers import SYNTHESISERS, Synthesiser, synthetic_rounds
from xadflow.detectors import TrainingData, build_detector
from xadflow.detectors.one_class.exposure import Exposure
from xadflow.detectors.one_class.settings import OneClassSettings
from xadflow.errors import BadSettings


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", SYNTHESISERS)
@pytest.mark.parametrize("shape", [(6, 1, 32, 32), (5, 3, 48, 20), (1, 1, 16, 40)])
def test_the_mask_is_where_the_copy_differs(kind: str, shape: tuple[int, int, int, int]):
    images = torch.randint(0, 256, shape, generator=seeded(7), dtype=torch.uint8)
    before = images.clone()
    once, again = (SYNTHESISERS[kind](images, seeded()) for _ in range(2))
    defective, masks = once
    assert torch.equal(images, before)
    assert defective.dtype == torch.uint8
    assert ((defective != images).any(dim=1) == masks).all()
    assert masks.flatten(1).any(dim=1).all()
    assert torch.equal(defective, again[0])
    assert torch.equal(masks, again[1])


@pytest.mark.parametrize("kind", SYNTHESISERS)
def test_flat_images_get_a_defect(kind: str):
    images = torch.full((8, 1, 32, 32), 90, dtype=torch.uint8)
    _, masks = SYNTHESISERS[kind](images, seeded())
    assert masks.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("kind", SYNTHESISERS)
def test_batches_to_train_on_carry_its_masks(kind: Synthesiser, small_data: TrainingData):
    settings = OneClassSettings(anomalies=("synthetic",), synthesiser=kind, batch_size=32, crop_px=0, flip=False)
    batch = Exposure(small_data, settings, torch.device("cpu"), anomalies=True).batch(seeded())
    assert torch.equal(batch.masks.flatten(1).any(dim=1), batch.is_anomaly)
    drawn, masks = synthetic_rounds(small_data.normals, kind, 2, 16, torch.device("cpu"), seeded())
    assert len(drawn) == len(masks) == 2 * len(small_data.normals)


def test_cut_paste_moves_rectangles():
    """The mask lies in a rectangle, which it fills but for pixels that are what was there."""
    images = torch.randint(0, 256, (40, 1, 64, 64), generator=seeded(1), dtype=torch.uint8)
    _, masks = SYNTHESISERS["cut_paste"](images, seeded())
    for mask in masks:
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.8
        assert box.numel() <= (0.4 * 64 + 1) ** 2


def test_the_names_are_those_of_the_setting_in_every_detector():
    assert set(SYNTHESISERS) == set(get_args(Synthesiser))
    for method in ("fcdd", "fcdd_conv", "hsc"):
        for kind in SYNTHESISERS:
            assert build_detector(method, synthesiser=kind).settings.synthesiser == kind  # type: ignore[attr-defined]
        with pytest.raises(BadSettings, match="synthesiser"):
            build_detector(method, synthesiser="glitter")
