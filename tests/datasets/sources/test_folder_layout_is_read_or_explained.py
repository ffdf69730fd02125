import os
from pathlib import Path

import pytest

from xadflow.datasets.sources.base import Candidate, Refused, open_source
from xadflow.errors import BadSettings, DataUnavailable
from xadflow.settings import DatasetSettings


def offered(path: Path, **options: object) -> tuple[list[Candidate], list[Refused]]:
    source = open_source("bolt", DatasetSettings(source="folder", options={"path": str(path), **options}))
    everything = list(source.candidates())
    return (
        [one for one in everything if isinstance(one, Candidate)],
        [one for one in everything if isinstance(one, Refused)],
    )


def test_an_mvtec_folder_gives_splits_labels_and_masks(product: Path) -> None:
    images, refused = offered(product)
    assert not refused
    counts = {(one.split, one.label, one.defect) for one in images}
    assert counts == {("train", 0, None), ("test", 0, None), ("test", 1, "scratch")}
    assert len(images) == 44
    scratch = next(one for one in images if one.origin == "test/scratch/003.png")
    assert scratch.mask_target == "ground_truth/scratch/003_mask.png"
    assert all(one.mask is None for one in images if one.label == 0)


def test_a_mask_may_have_the_bare_stem_and_another_suffix(product: Path, put, png) -> None:
    put(product / "test/dent/007.jpg", png(1, fmt="JPEG"))
    put(product / "ground_truth/dent/007.bmp", png(2, fmt="BMP"))
    images, _ = offered(product)
    assert next(one.mask_target for one in images if one.defect == "dent") == "ground_truth/dent/007.bmp"


def test_files_that_belong_nowhere_are_refused_and_not_skipped(product: Path, put, png) -> None:
    put(product / "readme.txt", b"hello")
    put(product / "train/loose.png", png(1))
    put(product / "ground_truth/scratch/099_mask.png", png(2))
    put(product / "ground_truth/good/000_mask.png", png(3))
    put(product / "validation/good/000.png", png(4))
    _, refused = offered(product)
    assert {row.path: row.reason for row in refused} == {
        "readme.txt": "outside-layout",
        "train/loose.png": "outside-layout",
        "validation/good/000.png": "outside-layout",
        "ground_truth/scratch/099_mask.png": "orphan-mask",
        "ground_truth/good/000_mask.png": "orphan-mask",
    }


def test_known_defects_leave_test_the_same_ones_each_time_and_when_others_are_added(product: Path, put, png) -> None:
    def known() -> set[str]:
        return {one.origin for one in offered(product, known_per_defect=3)[0] if one.split == "known"}

    before = known()
    assert len(before) == 3
    assert known() == before
    for number in range(20):
        put(product / f"test/dent/{number:03d}.png", png(300 + number))
    assert before < known()
    assert len(known()) == 6


def test_labelled_defects_under_train_are_known_defects(product: Path, put, png) -> None:
    put(product / "train/scratch/900.png", png(900))
    images, _ = offered(product)
    assert [(one.origin, one.label) for one in images if one.split == "known"] == [("train/scratch/900.png", 1)]


def test_the_origin_changes_when_a_file_is_added_changed_or_removed(product: Path, put, png) -> None:
    source = open_source("bolt", DatasetSettings(source="folder", options={"path": str(product)}))
    seen = [source.origin()]
    assert source.origin() == seen[0]
    put(product / "train/good/new.png", png(1))
    seen.append(source.origin())
    put(product / "train/good/new.png", png(2, 30, 30))
    seen.append(source.origin())
    (product / "train/good/000.png").unlink()
    seen.append(source.origin())
    (product / "train/good/001.png").chmod(0o600)  # what could not be read may be readable now
    seen.append(source.origin())
    assert len(set(seen)) == 5
    assert str(product) not in seen[0]


def test_links_and_folders_that_cannot_be_listed_are_quarantined_by_their_own_names(
    product: Path, put, png, tmp_path: Path, monkeypatch
) -> None:
    put(tmp_path / "outside/x.png", png(900))
    (product / "test/linked").symlink_to(tmp_path / "outside")
    (product / "loose-link.png").symlink_to(tmp_path / "outside/x.png")
    put(product / "test/closed/y.png", png(901))
    real = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    images, refused = offered(product)
    assert {row.path: row.reason for row in refused} == {
        "loose-link.png": "link",
        "test/linked": "link",
        "test/closed": "unreadable",
    }
    assert not any("x.png" in one.origin or "y.png" in one.origin for one in images)


def test_another_layout_is_answered_by_what_was_seen_and_what_is_expected(tmp_path: Path, put, png) -> None:
    flat = tmp_path / "flat"
    put(flat / "a.png", png(1))
    put(flat / "ok/b.png", png(2))
    with pytest.raises(DataUnavailable, match="train/good") as refusal:
        offered(flat)
    assert refusal.value.seen == "folders ['ok'] and 1 loose images in flat"


def test_a_folder_of_several_products_names_the_first_command(tmp_path: Path, put, png) -> None:
    for name in ("Bottle", "cable"):
        put(tmp_path / "all" / name / "train/good/0.png", png(1))
        (tmp_path / "all" / name / "test").mkdir()
    with pytest.raises(DataUnavailable, match="one product is one data set") as refusal:
        offered(tmp_path / "all")
    assert "xadflow data add bottle" in refusal.value.next_step


def test_train_without_images_is_refused_and_without_test_is_a_start(tmp_path: Path, put, png) -> None:
    (tmp_path / "a/train/good").mkdir(parents=True)
    (tmp_path / "a/test").mkdir()
    put(tmp_path / "b/train/good/0.png", png(1))
    with pytest.raises(DataUnavailable):
        offered(tmp_path / "a")
    assert len(offered(tmp_path / "b")) == 1


def test_a_missing_folder_and_a_missing_or_unknown_option_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="is not there"):
        offered(tmp_path / "gone")
    for options in ({}, {"path": "x", "knwon_per_defect": 1}):
        with pytest.raises(BadSettings, match=r"datasets\.bolt\.options\."):
            open_source("bolt", DatasetSettings(source="folder", options=options))
