"""What registration says of a detector's maps on the masks of split `test`, and what it leaves out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flows.commands import say_gate
from xadflow.metrics.localisation import aupro, pixel_auroc
from xadflow.work.week import pixel_figures as module
from xadflow.work.week.pixel_figures import cut_of, pixel_figures, pixel_line

SIDE, VAL, NORMALS, DEFECTS = 16, 19, 4, 6


class Grey:
    """Its map is the grey value, or nothing."""

    calibration = SimpleNamespace(false_alarm_rate=0.1)

    def __init__(self, kind: str = "map") -> None:
        self.kind = kind

    def score(self, images):
        maps = images[:, 0]
        maps = {"map": maps, "flat": (maps * 3).round() / 3, "odd": maps / 0.0, "none": None}[self.kind]
        return SimpleNamespace(map=maps)


def row(label: int, mask: bool):
    return SimpleNamespace(label=label, mask_path="images/mask.png" if mask else None, masked=mask)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch):
    """Images, rows and masks of a test split; the first defect has no mask, that of the second is lost by resizing."""
    rng = np.random.default_rng(0)
    masks = torch.zeros(DEFECTS, SIDE, SIDE, dtype=torch.bool)
    for number in range(2, DEFECTS):
        masks[number, number : number + 5, 3:9] = True
    images = torch.from_numpy(rng.integers(0, 180, (DEFECTS + NORMALS, 1, SIDE, SIDE), dtype=np.uint8))
    images[:DEFECTS, 0][masks] += 60
    rows = [row(1, number > 0) for number in range(DEFECTS)] + [row(0, False)] * NORMALS
    val = torch.from_numpy(rng.integers(0, 200, (VAL, 1, SIDE, SIDE), dtype=np.uint8))
    monkeypatch.setattr(module, "load_masks", lambda manifest, some, dataset: masks[1:])
    monkeypatch.setattr(module, "load_images", lambda manifest, some, dataset: val)
    explain = SimpleNamespace(batch_of=lambda shape: 3)
    settings = SimpleNamespace(dataset=lambda name: SimpleNamespace(classes=()), explain=explain)
    project = SimpleNamespace(settings=settings, device=torch.device("cpu"))
    manifest = SimpleNamespace(rows=lambda split, label: [row(0, False)] * VAL)
    return SimpleNamespace(project=project, manifest=manifest, rows=rows, images=images, masks=masks, val=val)


def figures(at, detector=None, rows=None, images=None):
    return pixel_figures(
        at.project, detector or Grey(), at.manifest, rows or at.rows, at.images if images is None else images, "bolts"
    )


@pytest.mark.parametrize("kept_bytes", [2**29, 0])
def test_they_are_the_exact_ones_of_normals_and_defects_with_masks_alone(
    measured, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(module, "_KEPT_BYTES", kept_bytes)
    found = figures(measured)
    maps = (measured.images[2:, 0].float() / 255).double().numpy()
    truth = torch.cat([measured.masks[2:], torch.zeros(NORMALS, SIDE, SIDE, dtype=torch.bool)]).numpy()
    assert found["auroc"] == pytest.approx(pixel_auroc(maps, truth), abs=1e-9)
    assert found["aupro"] == pytest.approx(aupro(maps, truth), abs=1e-9)
    assert (found["without_mask"], found["mask_lost"]) == (1, 1)
    assert (found["images"], found["normals"], found["regions"]) == (DEFECTS - 2, NORMALS, DEFECTS - 2)
    above = maps[: DEFECTS - 2] > found["threshold"]
    both, either = (above & truth[: DEFECTS - 2]).sum((1, 2)), (above | truth[: DEFECTS - 2]).sum((1, 2))
    assert found["iou"] == pytest.approx((both / either).mean())


def test_the_cut_is_where_the_share_of_held_out_normals_has_any_pixel_above(measured) -> None:
    cut = cut_of(measured.project, Grey(), measured.manifest, "bolts")
    highest = measured.val.flatten(1).amax(dim=1).float() / 255
    assert int((highest > cut).sum()) <= 0.1 * (VAL + 1)
    assert int((highest >= cut).sum()) >= 0.1 * (VAL + 1)


@pytest.mark.parametrize("kind", ["none", "odd"])
def test_a_detector_without_maps_or_with_odd_ones_has_no_figures(measured, kind: str) -> None:
    assert figures(measured, Grey(kind)) == {}


def test_without_masks_and_of_scenes_there_are_no_figures_here(measured) -> None:
    assert figures(measured, rows=[row(one.label, False) for one in measured.rows]) == {}
    measured.project.settings.dataset = lambda name: SimpleNamespace(classes=("road", "sky"))
    assert figures(measured) == {}


def test_masks_that_cover_nothing_or_everything_are_counted_and_no_more(measured) -> None:
    measured.masks[:] = False
    assert figures(measured) == {"without_mask": 1.0, "mask_lost": 5.0}
    measured.masks[:] = True
    assert figures(measured, rows=measured.rows[:DEFECTS], images=measured.images[:DEFECTS])["mask_lost"] == 0.0


def test_the_line_of_retrain_says_how_many_stand_behind_it_and_what_is_left_out(measured, capsys) -> None:
    line = pixel_line({f"test.pixels.{name}": value for name, value in figures(measured).items()})
    assert line is not None
    assert line.startswith("pixels of 4 defects with masks and 4 normals of test: AUROC 0.")
    assert "AUPRO 0." in line
    assert "of 4 regions; 1 defect without a mask left out; 1 defect whose mask has no pixel left" in line
    flat = figures(measured, Grey("flat"))
    tied = pixel_line({f"test.pixels.{name}": value for name, value in flat.items()})
    assert "AUROC and AUPRO not told" in str(tied)
    assert pixel_line({"test.pixels.auroc": 0.9, "test.auroc": 0.9}) is None  # of scenes
    verdict = {"model": "xad.bolts.grey", "version": 1, "trained": True, "passed": True, "reasons": ["is kept"]}
    say_gate([{**verdict, "pixels": line}, {**verdict, "pixels": None}])
    said = capsys.readouterr().out.splitlines()
    assert said[1:3] == [f"  {line}", "  is kept"]
    assert said[4] == "  is kept"
