import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xadflow.datasets import border
from xadflow.datasets.border import admit
from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate, Refused
from xadflow.images import ImageLimits, reading
from xadflow.images.reading import unsafe_name


def candidate(
    root: Path, relative: str, split: Split = Split.TRAIN, mask: str | None = None, label: int = 0
) -> Candidate:
    return Candidate(
        origin=relative,
        target=relative,
        content=root / relative,
        split=split,
        label=label,
        category="bolt",
        defect="scratch" if label else None,
        source="folder bolt",
        licence="not stated",
        mask=root / mask if mask else None,
        mask_target=mask,
        root=root,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "bolt"
    folder.mkdir()
    return folder


def reasons(refused: tuple[Refused, ...]) -> dict[str, str]:
    return {row.path: row.reason for row in refused}


def test_each_hostile_file_gets_its_own_reason_and_the_sound_ones_pass(root, tmp_path, put, png, huge_header) -> None:
    put(tmp_path / "outside.png", png(1))
    put(tmp_path / "elsewhere/x.png", png(2))
    put(root / "truncated.png", png(3)[:150])
    put(root / "empty.png", b"")
    put(root / "text.png", b"I am no image")
    put(root / "vector.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    put(root / "huge.png", huge_header)
    put(root / "long.png", png(4) + b"\0" * 5000)
    put(root / "notes.txt", b"hello")
    put(root / ".hidden.png", png(5))
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "folder-link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "pipe.png")
    put(root / "deep.png", png(6, mode="I;16"))
    put(root / "print.jpg", png(7, mode="CMYK", fmt="JPEG"))
    put(root / "wrong-suffix.jpg", png(8))
    names = [
        "truncated.png",
        "empty.png",
        "text.png",
        "vector.png",
        "huge.png",
        "long.png",
        "notes.txt",
        ".hidden.png",
        "link.png",
        "folder-link/x.png",
        "pipe.png",
        "gone.png",
        "../outside.png",
        "deep.png",
        "print.jpg",
        "wrong-suffix.jpg",
    ]
    into = tmp_path / "images"
    admission = admit([candidate(root, name) for name in names], into, ImageLimits(max_bytes=5000))
    assert reasons(admission.refused) == {
        "truncated.png": "undecodable",
        "empty.png": "empty",
        "text.png": "not-an-image",
        "vector.png": "not-an-image",
        "huge.png": "too-many-pixels",
        "long.png": "too-many-bytes",
        "notes.txt": "suffix",
        ".hidden.png": "hidden",
        "link.png": "link",
        "folder-link/x.png": "link",
        "pipe.png": "not-a-file",
        "gone.png": "vanished",
        "../outside.png": "path",
    }
    assert [row.path for row in admission.rows] == ["images/deep.png", "images/print.jpg", "images/wrong-suffix.jpg"]
    assert sorted(path.name for path in into.rglob("*")) == ["deep.png", "print.jpg", "wrong-suffix.jpg"]
    sizes = {row.path: (row.bytes, row.image_id) for row in admission.refused}
    assert sizes["empty.png"] == (0, None)
    assert sizes["text.png"] == (13, hashlib.sha256(b"I am no image").hexdigest())


def test_an_admitted_file_is_written_byte_for_byte_under_its_hash(root, tmp_path, put, png) -> None:
    content = png(1, 20, 30)
    put(root / "a/b.png", content)
    (row,) = admit([candidate(root, "a/b.png")], tmp_path / "images", ImageLimits()).rows
    assert (tmp_path / "images/a/b.png").read_bytes() == content
    assert (row.image_id, row.width, row.height) == (hashlib.sha256(content).hexdigest(), 30, 20)


def test_bytes_are_read_once_so_that_a_swap_after_the_check_changes_nothing(
    root, tmp_path, put, png, monkeypatch
) -> None:
    good = png(1)
    put(root / "a.png", good)

    def swap(content: bytes, limits: ImageLimits):
        pixels = decode(content, limits)
        (root / "a.png").write_bytes(b"swapped after it was checked")
        return pixels

    decode = border.decode_image
    monkeypatch.setattr(border, "decode_image", swap)
    (row,) = admit([candidate(root, "a.png")], tmp_path / "images", ImageLimits()).rows
    assert (tmp_path / "images/a.png").read_bytes() == good
    assert row.image_id == hashlib.sha256(good).hexdigest()


def test_a_file_that_grows_past_the_limit_while_it_is_read_is_refused(root, tmp_path, put, png, monkeypatch) -> None:
    put(root / "a.png", png(1))
    size = (root / "a.png").stat().st_size
    real = os.fstat
    monkeypatch.setattr(
        reading.os,
        "fstat",
        lambda handle: os.stat_result([value if n != 6 else 1 for n, value in enumerate(real(handle)[:10])]),
    )
    (row,) = admit([candidate(root, "a.png")], tmp_path / "images", ImageLimits(max_bytes=size - 1)).refused
    assert row.reason == "too-many-bytes"


def test_within_a_split_the_first_path_stays_and_across_splits_the_test_copy(root, tmp_path, put, png) -> None:
    for name in ("train/b.png", "train/a.png", "test/z.png", "known/k.png"):
        put(root / name, png(1))
    put(root / "train/c.png", png(2))
    put(root / "train/d.png", png(2))
    offered = [
        candidate(root, "train/a.png"),
        candidate(root, "train/b.png"),
        candidate(root, "train/d.png"),
        candidate(root, "train/c.png"),
        candidate(root, "test/z.png", Split.TEST),
        candidate(root, "known/k.png", Split.KNOWN, label=1),
    ]
    admission = admit(offered, tmp_path / "images", ImageLimits())
    assert [row.path for row in admission.rows] == ["images/test/z.png", "images/train/c.png"]
    assert reasons(admission.refused) == {
        "train/a.png": "duplicate-across-splits",
        "train/b.png": "duplicate-across-splits",
        "known/k.png": "duplicate-across-splits",
        "train/d.png": "duplicate",
    }
    assert all(row.image_id and row.bytes for row in admission.refused)
    left = sorted(path.name for path in (tmp_path / "images").rglob("*.png"))
    assert left == ["c.png", "z.png"]


def test_bytes_that_are_normal_and_anomalous_in_test_are_trusted_in_neither(root, tmp_path, put, png) -> None:
    put(root / "good.png", png(1))
    put(root / "bad.png", png(1))
    offered = [candidate(root, "good.png", Split.TEST), candidate(root, "bad.png", Split.TEST, label=1)]
    admission = admit(offered, tmp_path / "images", ImageLimits())
    assert not admission.rows
    assert set(reasons(admission.refused).values()) == {"conflicting-labels"}


def test_a_mask_must_be_there_decode_match_its_image_and_mark_something(root, tmp_path, put, png, mask_png) -> None:
    masks = {
        "fits": mask_png(24, 32),
        "small": mask_png(24, 31),
        "blank": png(0)[:0],
        "text": b"no mask",
        "zero": None,
        "gone": None,
        "link": None,
    }
    for number, (name, content) in enumerate(masks.items()):
        put(root / f"{name}.png", png(number))
        if content is not None:
            put(root / f"m/{name}.png", content)
    stream = io.BytesIO()
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(stream, format="PNG")
    put(root / "m/zero.png", stream.getvalue())
    (root / "m/link.png").symlink_to(root / "m/fits.png")
    offered = [candidate(root, f"{name}.png", Split.TEST, f"m/{name}.png", 1) for name in masks]
    admission = admit(offered, tmp_path / "images", ImageLimits())
    assert [(row.path, row.mask_path) for row in admission.rows] == [("images/fits.png", "images/m/fits.png")]
    assert reasons(admission.refused) == {
        "small.png": "mask-size",
        "blank.png": "mask-empty",
        "text.png": "mask-not-an-image",
        "zero.png": "mask-empty",
        "gone.png": "mask-vanished",
        "link.png": "mask-link",
    }
    assert "31x24" in next(row.detail for row in admission.refused if row.path == "small.png")


def test_what_is_listed_but_is_no_file_gets_the_reason_that_it_is_none(root, tmp_path, put, png) -> None:
    put(tmp_path / "elsewhere/x.png", png(1))
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "closed").mkdir()
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    names = ["link", "closed", "folder.png", "pipe.png", "no-suffix"]
    refused = reasons(admit([candidate(root, name) for name in names], tmp_path / "images", ImageLimits()).refused)
    assert refused == {
        "link": "link",
        "closed": "unreadable",
        "folder.png": "not-a-file",
        "pipe.png": "not-a-file",
        "no-suffix": "suffix",
    }


def test_a_file_that_is_gone_when_its_turn_comes_is_quarantined_and_the_next_ones_are_read(
    root, tmp_path, put, png, monkeypatch
) -> None:
    for number in range(3):
        put(root / f"{number}.png", png(number))
    real = os.open

    def gone(path, flags, *args, **kwargs):
        if path == "1.png":
            (root / "1.png").unlink()
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(reading.os, "open", gone)
    admission = admit([candidate(root, f"{number}.png") for number in range(3)], tmp_path / "images", ImageLimits())
    assert reasons(admission.refused) == {"1.png": "vanished"}
    assert [row.path for row in admission.rows] == ["images/0.png", "images/2.png"]


def test_names_that_differ_by_case_only_cannot_overwrite_each_other(root, tmp_path, put, png) -> None:
    put(root / "a.png", png(1))
    put(root / "A.png", png(2))
    admission = admit([candidate(root, "A.png"), candidate(root, "a.png")], tmp_path / "images", ImageLimits())
    assert reasons(admission.refused) == {"a.png": "path-clash"}


def test_a_name_that_is_no_text_is_quarantined_escaped(root, tmp_path, png) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (root / name).write_bytes(png(1))
    (row,) = admit([candidate(root, name)], tmp_path / "images", ImageLimits()).refused
    assert (row.path, row.reason) == ("caf\\xe9.png", "path")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/x.png", "no relative path"),
        ("a/../b.png", "`..`"),
        ("a..b.png", "`..`"),
        ("a//b.png", "no relative path"),
        ("./a.png", "no relative path"),
        ("a\\b.png", "backslash"),
        ("..\\b.png", "`..`"),
        ("a\nb.png", "control"),
        ("", "no relative path"),
        ("x" * 256, "255 bytes"),
        ("caf\udce9.png", "no text"),
    ],
)
def test_unsafe_names_are_refused_and_told_why(name: str, why: str) -> None:
    reason, detail = unsafe_name(name)
    assert reason == "path"
    assert why in detail


@pytest.mark.parametrize("name", ["a.png", "kratzer/ä b.png", "12:30:01.png"])
def test_ordinary_names_are_not(name: str) -> None:
    assert unsafe_name(name) is None


def test_progress_counts_every_file_once(root, tmp_path, put, png) -> None:
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        put(root / name, png(number))
    seen: list[tuple[int, int]] = []
    admit([candidate(root, name) for name in names], tmp_path / "i", ImageLimits(), lambda *at: seen.append(at))
    assert seen == [(done, 5) for done in range(1, 6)]


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.jp2", "convert .jp2"), ("a.HEIC", "convert .heic"), ("a.gif", "convert .gif"), ("a", "one of")],
)
def test_a_picture_of_a_format_that_is_not_read_is_named_with_what_to_do(root, tmp_path, put, name, said) -> None:
    put(root / name, b"x")
    (row,) = admit([candidate(root, name)], tmp_path / "images", ImageLimits()).refused
    assert (row.path, row.reason) == (name, "suffix")
    assert said in row.detail


def test_of_several_pages_the_first_is_used_and_the_others_are_named(root, tmp_path) -> None:
    pages = [Image.fromarray(np.full((9, 9), grey, np.uint8)) for grey in (10, 20, 30)]
    for name in ("scan.tif", "turn.webp", "moving.png"):
        pages[0].save(
            root / name, save_all=True, append_images=pages[1:], **({"lossless": True} if "webp" in name else {})
        )
        pages = [page.point(lambda grey: grey + 40) for page in pages]
    names = ["scan.tif", "turn.webp", "moving.png"]
    admission = admit([candidate(root, name) for name in names], tmp_path / "images", ImageLimits())
    assert sorted(row.path for row in admission.rows) == sorted(f"images/{name}" for name in names)
    assert reasons(admission.refused) == {f"{name} [page 2 and on]": "more-pages" for name in names}


def test_a_re_saved_copy_is_the_same_image_by_its_pixels(root, tmp_path, put) -> None:
    grey = np.random.default_rng(5).integers(0, 256, (20, 30), np.uint8)
    saved = {
        "test.png": Image.fromarray(grey),
        "train.bmp": Image.fromarray(grey),
        "train.tif": Image.fromarray(grey),
        "train-colour.png": Image.fromarray(grey).convert("RGB"),
        "train-deep.png": Image.fromarray(grey.astype(np.uint16) * 256),
        "train-turned.png": Image.fromarray(np.ascontiguousarray(grey[::-1])),
    }
    for name, image in saved.items():
        image.save(root / name)
    offered = [candidate(root, name, Split.TEST if name == "test.png" else Split.TRAIN) for name in saved]
    admission = admit(offered, tmp_path / "images", ImageLimits())
    assert [row.path for row in admission.rows] == ["images/test.png", "images/train-turned.png"]
    assert set(reasons(admission.refused).values()) == {"duplicate-across-splits"}
    assert all("the same pixels as test.png" in row.detail for row in admission.refused)
    assert len(admission.refused) == 4


def test_in_an_inbox_only_the_same_bytes_are_the_same_image(root, tmp_path) -> None:
    """A night gives each file a row: that two cameras saw the same black is no reason to leave one out."""
    for name in ("cap.png", "cap.bmp"):
        Image.new("L", (9, 9)).save(root / name)
    offered = [candidate(root, name, Split.INBOX) for name in ("cap.png", "cap.bmp")]
    assert len(admit(offered, tmp_path / "images", ImageLimits()).rows) == 2


def test_the_same_pixels_as_normal_and_as_a_defect_are_trusted_in_neither(root, tmp_path) -> None:
    for name in ("good.png", "bad.bmp"):
        Image.new("L", (9, 9), 77).save(root / name)
    offered = [candidate(root, "good.png", Split.TEST), candidate(root, "bad.bmp", Split.TEST, label=1)]
    admission = admit(offered, tmp_path / "images", ImageLimits())
    assert not admission.rows
    assert {row.detail for row in admission.refused} == {"the same pixels are both normal and anomalous"}
