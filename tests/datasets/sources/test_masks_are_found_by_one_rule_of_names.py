from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from xadflow.datasets.sources.base import Candidate, Refused
from xadflow.datasets.sources.folder import Folder
from xadflow.datasets.sources.mask_names import Masks, looked_for


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("test/scratch/007.png", f"ground_truth/scratch/{name}")
        for name in (
            *("007_mask.png", "007.png", "007_GT.png", "007_gt.tif", "007-mask.png", "007_MASK.PNG", "007 mask.jpg"),
            *("mask_007.png", "GT_007.bmp", "007_label.png", "007_seg.webp", "007-Labels.png", "007.jpg"),
        )
    ]
    + [
        ("test/scratch/line 3/cam.1/a.b.jpg", "ground_truth/scratch/line 3/cam.1/a.b_mask.png"),
        ("test/scratch/IMG-1_2 3.png", "ground_truth/Scratch/img_1-2_3-GT.png"),
        (
            unicodedata.normalize("NFD", "test/groß/größe.png"),
            unicodedata.normalize("NFC", "ground_truth/groß/größe_mask.png"),
        ),
        ("train/scratch/007.png", "ground_truth/scratch/007_mask.png"),
    ],
)
def test_a_mask_of_an_ordinary_name_is_found(image: str, mask: str) -> None:
    masks = Masks([mask])
    assert masks.take(image) == mask
    assert masks.take(image) is None
    assert not masks.left()


@pytest.mark.parametrize("mask", ["0071_mask.png", "07_mask.png", "007_maskfile.png", "x007.png", "sub/007_mask.png"])
def test_a_mask_of_another_image_is_not(mask: str) -> None:
    masks = Masks([f"ground_truth/scratch/{mask}", "ground_truth/spot/007_mask.png"])
    assert masks.take("test/scratch/007.png") is None
    assert len(masks.left()) == 2


def test_of_several_masks_the_first_of_the_rule_is_taken_and_the_spelling_of_the_image_goes_first() -> None:
    files = [f"ground_truth/scratch/{name}" for name in ("7.png", "7-MASK.png", "7_mask.png", "7_gt.png")]
    masks = Masks(files)
    assert masks.take("test/scratch/7.png") == "ground_truth/scratch/7_mask.png"
    assert masks.left() == sorted(one for one in files if not one.endswith("7_mask.png"))


def test_two_images_that_differ_by_case_each_get_their_own() -> None:
    masks = Masks(["ground_truth/scratch/A_mask.png", "ground_truth/scratch/a_mask.png"])
    assert masks.take("test/scratch/a.png") == "ground_truth/scratch/a_mask.png"
    assert masks.take("test/scratch/A.png") == "ground_truth/scratch/A_mask.png"


def test_each_file_of_a_folder_is_offered_or_named_and_an_orphan_says_what_was_looked_for(tmp_path: Path) -> None:
    names = [
        *("train/good/1.png", "test/good/2.jfif", "test/scratch/3.png", "ground_truth/scratch/3_GT.png"),
        *("ground_truth/scratch/4-mask.png", "ground_truth/scratch/notes.txt", "ground_truth/scratch/3_gt.jp2"),
        *("train/good/5.jp2", "loose.pgm", "test/good/Thumbs.db"),
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list(Folder("bolt", {"path": str(tmp_path)}).candidates())
    offered = [one for one in found if isinstance(one, Candidate)]
    refused = {one.path: one for one in found if isinstance(one, Refused)}
    masks = {one.origin: one.mask_target for one in offered if one.mask_target}
    assert masks == {"test/scratch/3.png": "ground_truth/scratch/3_GT.png"}
    assert sorted([one.origin for one in offered] + list(masks.values()) + list(refused)) == sorted(names)
    orphan = refused["ground_truth/scratch/4-mask.png"]
    assert orphan.reason == "orphan-mask"
    assert ", ".join(looked_for("007.png")[:3]) in orphan.detail
