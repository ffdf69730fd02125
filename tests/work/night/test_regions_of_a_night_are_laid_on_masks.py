"""The page of a night says how the heat, and what transplants replaced, lie on the masks of test images."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from xadflow.errors import BadImage
from xadflow.images import encode_png
from xadflow.report.on_masks import of_rows, of_version
from xadflow.work.night import on_masks as module
from xadflow.work.night.on_masks import night_on_masks

SIDE = 8
MEASURED = {
    "images": 9.0,
    "normals": 1.0,
    "regions": 12.0,
    "regions_found": 9.0,
    "iou": 0.41,
    "auroc": 0.97,
    "aupro": 0.88,
    "tied_share": 0.0,
}


def picture(mask: np.ndarray, name: str = "transplant.0.region") -> dict[str, object]:
    return {"name": name, "image": {"bytes": encode_png(mask.astype(np.uint8)[None] * 255)}}


def box(*corners: int) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    top, bottom, left, right = corners
    found[top:bottom, left:right] = True
    return found


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Five test images with masks and one without; the mask of `c` is lost by resizing, and `e` is not of tonight."""
    masks = {
        "a": box(0, 4, 0, 4),
        "b": box(2, 6, 2, 6),
        "c": box(0, 0, 0, 0),
        "d": box(0, 2, 0, 2),
        "e": box(0, 8, 0, 8),
    }
    marked = [SimpleNamespace(image_id=name, mask_path="images/m.png") for name in masks]
    rows = {
        "a": [picture(box(0, 4, 0, 4))],
        "b": [picture(box(4, 8, 2, 6)), picture(box(0, 8, 0, 8), "transplant.1.region")],
        "c": [picture(box(0, 2, 0, 2))],
        "d": [picture(box(0, 0, 0, 0)), picture(box(0, 8, 0, 8), "transplant.part.0")],
        "plain": [picture(box(0, 2, 0, 2))],
    }
    told = [{"run_id": "run", "image_id": name, "images": images} for name, images in rows.items()]
    told += [{"run_id": "run", "image_id": "a", "images": None}]
    told += [{"run_id": "earlier", "image_id": "a", "images": [picture(box(6, 8, 6, 8))]}]
    table = pa.Table.from_pylist(told)
    manifest = SimpleNamespace(rows=lambda split, label: [*marked, SimpleNamespace(image_id="plain", mask_path=None)])
    monkeypatch.setattr(module, "read_manifest", lambda folder: manifest)
    asked: list[list[str]] = []

    def load_masks(manifest, some, dataset):
        asked.append([row.image_id for row in some])
        return torch.from_numpy(np.stack([masks[row.image_id] for row in some]))

    monkeypatch.setattr(module, "load_masks", load_masks)
    return SimpleNamespace(
        asked=asked,
        plan=SimpleNamespace(
            dataset="bolts",
            run_id="run",
            model_name="xad.bolts.grey",
            model_version=3,
            shards=[[SimpleNamespace(image_id=name) for name in rows]],
        ),
        project=SimpleNamespace(
            home=SimpleNamespace(dataset=lambda name: None),
            settings=SimpleNamespace(dataset=lambda name: SimpleNamespace(shape_px=(SIDE, SIDE))),
            store=SimpleNamespace(read=lambda name, columns, where: table.filter(where).select(columns)),
            registry=SimpleNamespace(
                resolve=str, figures=lambda ref: {f"test.pixels.{name}": value for name, value in MEASURED.items()}
            ),
        ),
    )


def test_regions_that_were_replaced_are_compared_with_masks_that_are_there(night: SimpleNamespace) -> None:
    found = night_on_masks(night.project, night.plan)
    assert found.figures == {
        "transplant.on_masks": 2.0,
        "transplant.region_iou": pytest.approx((1.0 + 8 / 24) / 2),
        "transplant.region_inside": pytest.approx((1.0 + 8 / 16) / 2),
    }
    assert night.asked == [["a", "b", "c"]]
    assert [one.value for one in found.shown] == pytest.approx([0.97, 0.88, 0.41, 0.75, 2 / 3, 0.75])
    assert [one.of for one in found.shown][::5] == ["9 defects with a mask, 1 normal", "2 images of tonight"]


def test_masks_that_cannot_be_read_stop_no_night(night: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*given):
        raise BadImage("gone", seen="images/m.png", next_step="-")

    monkeypatch.setattr(module, "load_masks", gone)
    found = night_on_masks(night.project, night.plan)
    assert found.figures == {}
    assert len(found.shown) == 4


def test_a_version_that_was_measured_on_no_mask_is_not_spoken_of_and_ties_are_said() -> None:
    assert of_version({}) == ()
    assert of_version({"without_mask": 4.0}) == ()
    assert of_rows(math.nan, math.nan, 0) == ()
    ranked = {"auroc", "aupro"}
    tied, *others = of_version({**{k: v for k, v in MEASURED.items() if k not in ranked}, "tied_share": 0.31})
    assert math.isnan(tied.value)
    assert tied.of == "not told: 31 % of the pairs of pixels have equal scores"
    assert [one.value for one in others] == [0.41, 0.75]
    assert others[-1].rate is not None
    assert (others[-1].rate.count, others[-1].rate.of) == (9, 12)
