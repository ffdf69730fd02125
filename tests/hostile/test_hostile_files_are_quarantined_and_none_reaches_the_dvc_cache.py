"""The whole way of a folder full of bad files: `xadflow data add`, real DVC, a real cache."""

from __future__ import annotations

import hashlib
import json

import pyarrow.parquet as pq
import pytest
from hostile_files import OUTSIDE, REASONS, SOUND, VANISHING

pytestmark = pytest.mark.slow

DUPLICATE = "train/good/same-as-a-test-image.png"  # its bytes are in the cache rightly: as the test image they equal


@pytest.fixture(scope="module")
def quarantine(plant, added) -> dict[str, dict]:
    rows = pq.read_table(plant.project / "data/bolts/quarantine.parquet").to_pylist()
    return {row["path"]: row for row in rows}


@pytest.fixture(scope="module")
def manifest(plant, added) -> dict[str, dict]:
    rows = pq.read_table(plant.project / "data/bolts/manifest.parquet").to_pylist()
    return {row["path"].removeprefix("images/"): row for row in rows}


def test_each_bad_file_is_in_quarantine_under_its_own_reason_and_nothing_else_is(quarantine) -> None:
    assert {path: row["reason"] for path, row in quarantine.items()} == REASONS
    assert all(row["detail"] for row in quarantine.values())


def test_what_was_read_whole_is_named_by_its_bytes(plant, quarantine) -> None:
    for path in ("train/good/truncated.png", "train/good/text.png", "test/good/bomb.png", DUPLICATE):
        content = (plant.bolts / path).read_bytes()
        assert quarantine[path]["image_id"] == hashlib.sha256(content).hexdigest()
        assert quarantine[path]["bytes"] == len(content)


def test_the_sound_files_are_in_the_manifest_and_the_test_copy_of_a_doubled_image_stays(plant, manifest) -> None:
    assert set(SOUND) <= set(manifest)
    assert "test/good/000.png" in manifest
    ours = {path.relative_to(plant.bolts).as_posix() for path in plant.bolts.rglob("*") if path.is_file()}
    pictures = {path for path in ours if not path.startswith("ground_truth/")}
    assert set(manifest) == pictures - set(REASONS)


def test_the_file_that_vanished_was_there_before_and_after(plant, quarantine) -> None:
    assert (plant.bolts / VANISHING).is_file()
    assert quarantine[VANISHING]["image_id"] is None


def test_the_user_is_shown_each_file_with_its_reason(added) -> None:
    for path, reason in REASONS.items():
        assert any(line.split()[:2] == [reason, path] for line in added.said.splitlines()), path


def test_nothing_of_a_bad_file_is_in_the_cache_or_below_data(plant, quarantine) -> None:
    """Not its bytes, not a part of them that was decoded, not what a link points to."""
    bad = {
        path: (plant.bolts / path).read_bytes()
        for path in REASONS
        if path != DUPLICATE and (plant.bolts / path).is_file()
    }
    bad["the mask that does not fit"] = (plant.bolts / "ground_truth/scratch/odd-mask_mask.png").read_bytes()
    for path in sorted((plant.users / OUTSIDE).rglob("*")):
        if path.is_file():
            bad[path.name] = path.read_bytes()
    assert len(bad) >= len(REASONS)
    kept = [path for folder in (".dvc/cache", "data") for path in (plant.project / folder).rglob("*") if path.is_file()]
    assert sum(".dvc/cache" in path.as_posix() for path in kept) > 100
    assert not [
        path for folder in (".dvc/cache", "data") for path in (plant.project / folder).rglob("*") if path.is_symlink()
    ]
    held = [(path, path.read_bytes()) for path in kept]
    for name, content in bad.items():
        part = content[: min(len(content), 400)]
        found = [path for path, there in held if there == content or (content and part in there)]
        assert not found, f"{name} is in {found}"


def test_the_cached_listing_names_exactly_the_admitted_files(plant, manifest) -> None:
    listings = [json.loads(path.read_text()) for path in (plant.project / ".dvc/cache").rglob("*.dir")]
    assert len(listings) == 1
    names = {entry["relpath"] for entry in listings[0]}
    masks = {row["mask_path"].removeprefix("images/") for row in manifest.values() if row["mask_path"]}
    assert names == set(manifest) | masks | {"index.parquet", "refused.parquet"}


def test_no_command_left_half_a_folder_behind(plant, added) -> None:
    assert not list((plant.project / "data").rglob("*.partial"))
    assert not list((plant.project / "data/bolts").glob(".images.*"))


def test_the_bomb_is_a_picture_that_pillow_would_decode(plant) -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with Image.open(plant.bolts / "test/good/bomb.png") as image:
        assert image.size == (40_000, 40_000)
        image.verify()
