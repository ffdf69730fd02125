"""The benchmark of large images does what the warning of `data add` says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.kit.commands import family
from benchmarks.large_images import PRODUCTS, QUICK, draw, follow
from xadflow.datasets.smallest_defect import SmallestDefect
from xadflow.settings import DatasetSettings

ENTRY = "  photos: {source: folder, size_px: [224, 336], channels: 1, options: {path: /tmp/photos}}"


def test_what_the_warning_says_is_what_makes_the_defect_large_enough(tmp_path) -> None:
    before = DatasetSettings(source="folder", size_px=(224, 336), channels=1)
    warning = SmallestDefect("test/chip/0.jpg", 10.0, 1.4).warning("photos", before, (1600, 2400))
    params = tmp_path / "params.yaml"
    params.write_text(f"datasets:\n{ENTRY}\nretrain: {{datasets: [photos], detectors: [fcdd]}}\n")
    follow(params, "photos", warning)
    text = params.read_text()
    assert "  photos: {source: folder, size_px: [1600, 2400], tile_px: 128, channels: 1," in text
    after = DatasetSettings(source="folder", size_px=(1600, 2400), tile_px=128, channels=1)
    assert SmallestDefect("test/chip/0.jpg", 10.0, 10.0).warning("photos", after, (1600, 2400)) is None


@pytest.mark.parametrize("said", ["", "Set size_px: [1600, 2400] under datasets.photos in params.yaml."])
def test_a_warning_that_names_nothing_to_set_ends_it(said, tmp_path) -> None:
    with pytest.raises(ValueError, match="nothing to follow"):
        follow(tmp_path / "params.yaml", "photos", said)


@pytest.mark.parametrize("product", [PRODUCTS[0], QUICK[1]], ids=lambda one: one.name)
def test_a_defect_is_where_it_is_said_to_be(product, tmp_path) -> None:
    small = product.__class__(**{**vars(product), "shape": (120, 400), "train": 1, "good": 1, "bad": 2})
    places = draw(tmp_path, small)
    assert sorted(places) == ["test/chip/000.jpg", "test/chip/001.jpg"]
    for path, (top, left) in places.items():
        side = small.defect_px
        assert np.asarray(Image.open(tmp_path / path))[top : top + side, left : left + side].min() > 200
        mask = tmp_path / "ground_truth/chip" / f"{path[-7:-4]}_mask.png"
        assert mask.is_file() is product.masks
        if product.masks:
            assert np.argwhere(np.asarray(Image.open(mask))).min(axis=0).tolist() == [top, left]


def test_the_family_of_a_process_is_it_and_what_came_from_it() -> None:
    import os
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        child.communicate(b"\n")
