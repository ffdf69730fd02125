import os
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from xadflow.datasets.inbox import admit_inbox
from xadflow.datasets.manifest import read_manifest
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


def stored(into: Path) -> dict[str, bytes]:
    """Paths below images/ of the manifest, each with the bytes of its file, which are those of its row."""
    manifest = read_manifest(into)
    found = {row.path.removeprefix("images/"): manifest.path_of(row).read_bytes() for row in manifest.rows()}
    assert len(found) == len(manifest.rows())
    assert all(sha256_file(manifest.path_of(row)) == row.image_id for row in manifest.rows())
    return found


def test_a_name_that_is_our_own_suffix_of_another_overwrites_nothing(tmp_path: Path, put, png) -> None:
    inbox, into = tmp_path / "inbox", tmp_path / "runs/1"
    own = f"a-{sha256_bytes(png(9))[:12]}.png"
    flat = f"{sha256_bytes(png(9))}.png"
    for name, seed in (("a.png", 1), (own, 2), (flat, 3)):
        put(inbox / name, png(seed))
    admit_inbox(inbox, LIMITS, into)
    put(inbox / "a.png", png(9))
    admit_inbox(inbox, LIMITS, into)
    assert sorted(stored(into).values()) == sorted(png(seed) for seed in (1, 2, 3, 9))


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "ü" * 125 + "x.PNG", "検" * 83 + "xx.png"])
def test_the_longest_name_whose_content_changes_is_admitted_again(tmp_path: Path, put, png, name: str) -> None:
    inbox, into = tmp_path / "inbox", tmp_path / "runs/1"
    assert len(name.encode()) == 255
    for seed in (1, 2, 3):
        put(inbox / name, png(seed))
        admit_inbox(inbox, LIMITS, into)
    assert sorted(stored(into).values()) == sorted(png(seed) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("first", "then"), [("x.png", "x.png/y.png"), ("x.png/y.png", "x.png"), ("x.png/y/z.png", "x.png/y")]
)
def test_what_was_a_file_may_become_a_folder_and_the_other_way_round(tmp_path, put, png, first, then) -> None:
    inbox, into = tmp_path / "inbox", tmp_path / "runs/1"
    suffix = "" if then.endswith(".png") else ".png"
    put(inbox / first, png(1))
    admit_inbox(inbox, LIMITS, into)
    shutil.rmtree(inbox)
    put(inbox / f"{then}{suffix}", png(2))
    for _ in range(2):
        admit_inbox(inbox, LIMITS, into)
        assert sorted(stored(into).values()) == sorted([png(1), png(2)])


@pytest.mark.parametrize(
    "names",
    [
        [unicodedata.normalize(form, "größe.png") for form in ("NFC", "NFD")],
        ["A.png", "a.PNG", "a.png"],
        ["Teil/x.png", "TEIL/X.png"],
    ],
)
def test_names_that_another_system_takes_for_one_are_all_admitted_by_their_content(tmp_path, put, png, names) -> None:
    inbox, into = tmp_path / "inbox", tmp_path / "runs/1"
    for seed, name in enumerate(names):
        put(inbox / name, png(seed))
    admit_inbox(inbox, LIMITS, into)
    found = stored(into)
    assert sorted(found.values()) == sorted(png(seed) for seed in range(len(names)))
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(names)
    assert quarantine(into) == {}


def test_a_thousand_levels_of_folders_stop_no_night(tmp_path: Path, put, png) -> None:
    inbox, into = tmp_path / "inbox", tmp_path / "runs/1"
    put(inbox / "good.png", png(1))
    here = os.open(inbox, os.O_RDONLY)
    for level in range(1200):
        os.mkdir("d" * 8, dir_fd=here)
        below = os.open("d" * 8, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        if level == 300:  # 2,700 bytes of path: readable, and longer than what we store
            middle = os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=here)
            os.write(middle, png(2))
            os.close(middle)
    os.close(here)
    try:
        for _ in range(2):
            admit_inbox(inbox, LIMITS, into)
            assert sorted(stored(into).values()) == sorted([png(1), png(2)])
            (reason,) = quarantine(into).values()
            assert reason == "unreadable"
    finally:  # a later session of pytest would end in RecursionError when it clears old folders by shutil.rmtree
        subprocess.run(["rm", "-rf", str(inbox)], check=True)


def test_each_night_copies_only_what_no_night_has(inbox: Path, tmp_path: Path, put, png) -> None:
    nights = tmp_path / "runs"
    admit_inbox(inbox, LIMITS, nights / "2026-01-02")
    put(inbox / "new.png", png(8))
    put(inbox / "copy of old.png", png(1))
    second = admit_inbox(inbox, LIMITS, nights / "2026-01-03")
    assert [row.path for row in second.rows()] == ["images/new.png"]
    assert [name for name in tree(nights / "2026-01-03") if name.startswith("images/")] == ["images/new.png"]
    again = admit_inbox(inbox, LIMITS, nights / "2026-01-04")
    assert again.rows() == []
    assert quarantine(nights / "2026-01-04")["cut.png"] == "undecodable"


def test_an_image_whose_file_an_earlier_night_lost_is_copied_again(inbox: Path, tmp_path: Path) -> None:
    nights = tmp_path / "runs"
    admit_inbox(inbox, LIMITS, nights / "2026-01-02")
    (nights / "2026-01-02/images/a.png").unlink()
    assert [row.path for row in admit_inbox(inbox, LIMITS, nights / "2026-01-03").rows()] == ["images/a.png"]


def test_a_file_that_came_half_is_out_of_quarantine_once_it_is_whole(inbox: Path, tmp_path: Path, put, png) -> None:
    into = tmp_path / "runs/1"
    admit_inbox(inbox, LIMITS, into)
    assert quarantine(into)["cut.png"] == "undecodable"
    put(inbox / "cut.png", png(3))
    put(inbox / "note.txt", b"")
    admit_inbox(inbox, LIMITS, into)
    assert "cut.png" not in quarantine(into)
    assert "cut.png" in stored(into)
    put(inbox / "later.png", png(4)[:50])
    admit_inbox(inbox, LIMITS, into)
    put(inbox / "later.png", png(1))  # whole, and the same as a.png
    admit_inbox(inbox, LIMITS, into)
    assert quarantine(into)["later.png"] == "duplicate"


@pytest.mark.parametrize("name", ["Thumbs.db", "sub/.DS_Store", "desktop.ini", "THUMBS.DB", "._a.png", "ehthumbs.db"])
def test_what_operating_systems_leave_behind_is_not_refused_and_anything_else_is(tmp_path, put, png, name) -> None:
    inbox, into = tmp_path / "inbox", tmp_path / "runs/1"
    put(inbox / "a.png", png(1))
    put(inbox / name, b"x")
    put(inbox / "thumbs.db.txt", b"x")
    put(inbox / ".hidden.png", png(2))
    admit_inbox(inbox, LIMITS, into)
    assert quarantine(into) == {"thumbs.db.txt": "suffix", ".hidden.png": "hidden"}
