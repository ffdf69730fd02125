import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from xadflow.datasets.inbox import admit_inbox
from xadflow.digests import sha256_bytes, sha256_file
from xadflow.errors import DataUnavailable
from xadflow.images import ImageLimits

LIMITS = ImageLimits()


@pytest.fixture
def inbox(tmp_path: Path, put, png) -> Path:
    folder = tmp_path / "inbox"
    put(folder / "a.png", png(1))
    put(folder / "line 2/b.png", png(2))
    put(folder / "line 2/copy.png", png(2))
    put(folder / "note.txt", b"hello")
    put(folder / "cut.png", png(3)[:60])
    (folder / "link.png").symlink_to(folder / "a.png")
    return folder


def quarantine(into: Path) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in pq.read_table(into / "quarantine.parquet").to_pylist()}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_are_copied_with_hash_and_everything_else_has_a_reason(inbox: Path, tmp_path: Path) -> None:
    into = tmp_path / "runs/2026-01-02"
    manifest = admit_inbox(inbox, LIMITS, into)
    assert sorted(row.path for row in manifest.rows()) == ["images/a.png", "images/line 2/b.png"]
    for row in manifest.rows():
        assert (row.split, row.label, row.defect, row.mask_path) == ("inbox", None, None, None)
        assert sha256_file(manifest.path_of(row)) == row.image_id
    assert quarantine(into) == {
        "line 2/copy.png": "duplicate",
        "note.txt": "suffix",
        "cut.png": "undecodable",
        "link.png": "link",
    }


def test_a_second_run_changes_no_byte(inbox: Path, tmp_path: Path) -> None:
    into = tmp_path / "runs/2026-01-02"
    admit_inbox(inbox, LIMITS, into)
    before = tree(into)
    admit_inbox(inbox, LIMITS, into)
    assert tree(into) == before


def test_later_arrivals_are_added_and_what_the_sender_removed_stays(inbox: Path, tmp_path: Path, put, png) -> None:
    into = tmp_path / "runs/2026-01-02"
    admit_inbox(inbox, LIMITS, into)
    shutil.rmtree(inbox)
    put(inbox / "c.png", png(7))
    put(inbox / "again.png", png(1))
    manifest = admit_inbox(inbox, LIMITS, into)
    assert sorted(row.path for row in manifest.rows()) == ["images/a.png", "images/c.png", "images/line 2/b.png"]
    assert quarantine(into)["again.png"] == "duplicate"
    assert quarantine(into)["cut.png"] == "undecodable"
    assert all(manifest.path_of(row).is_file() for row in manifest.rows())


def test_a_new_image_under_a_taken_name_gets_its_hash_appended(inbox: Path, tmp_path: Path, put, png) -> None:
    into = tmp_path / "runs/2026-01-02"
    admit_inbox(inbox, LIMITS, into)
    put(inbox / "a.png", png(9))
    added = f"images/a-{sha256_bytes(png(9))[:12]}.png"
    for _ in range(2):
        manifest = admit_inbox(inbox, LIMITS, into)
        assert sorted(row.path for row in manifest.rows()) == sorted(["images/a.png", added, "images/line 2/b.png"])
        assert "a.png" not in quarantine(into)
        assert all(sha256_file(manifest.path_of(row)) == row.image_id for row in manifest.rows())


def test_a_copy_that_was_damaged_since_is_taken_again(inbox: Path, tmp_path: Path, png) -> None:
    into = tmp_path / "runs/2026-01-02"
    admit_inbox(inbox, LIMITS, into)
    (into / "images/a.png").write_bytes(b"half")
    manifest = admit_inbox(inbox, LIMITS, into)
    assert (into / "images/a.png").read_bytes() == png(1)
    assert len(manifest.rows()) == 2


def test_an_empty_inbox_gives_an_empty_manifest_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert admit_inbox(tmp_path / "empty", LIMITS, tmp_path / "runs/1").rows() == []
    with pytest.raises(DataUnavailable, match="inbox folder is not there"):
        admit_inbox(tmp_path / "gone", LIMITS, tmp_path / "runs/2")
