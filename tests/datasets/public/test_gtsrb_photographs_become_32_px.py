"""Traffic signs from zip archives of PPM files of many sizes. The real archives are not here; these have their form."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xadflow.datasets.public.gtsrb import TEST, TEST_LABELS, TRAIN, read_gtsrb
from xadflow.datasets.public.raw_files import raw_folder
from xadflow.datasets.public.sets import SETS
from xadflow.datasets.sources import open_source
from xadflow.digests import sha256_bytes
from xadflow.errors import BadInput
from xadflow.images import to_input
from xadflow.settings import DatasetSettings, Home

RNG = np.random.default_rng(0)
PHOTOS = {
    "GTSRB/Training/00014/00000_00001.ppm": RNG.integers(0, 256, (60, 41, 3), dtype=np.uint8),
    "GTSRB/Training/00000/00000_00000.ppm": RNG.integers(0, 256, (15, 250, 3), dtype=np.uint8),
    "GTSRB/Training/00042/00003_00000.ppm": RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8),
}
TESTED = {
    "GTSRB/Final_Test/Images/00001.ppm": RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8),
    "GTSRB/Final_Test/Images/00000.ppm": RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8),
}
TABLE = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000.ppm;30;20;5;5;25;15;14\n00001.ppm;90;90;5;5;85;85;3\n"  # noqa: E501


def ppm(pixels: np.ndarray) -> bytes:
    return b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def archives(photos: dict[str, bytes] | None = None, table: str = TABLE) -> dict[str, bytes]:
    photos = {name: ppm(pixels) for name, pixels in PHOTOS.items()} if photos is None else photos
    tested = {name: ppm(pixels) for name, pixels in TESTED.items()}
    noise = {
        "GTSRB/Readme-Images.txt": b"text",
        "GTSRB/Training/00014/GT-00014.csv": b"a;b",
        "../evil.ppm": b"no picture",
    }
    return {
        TRAIN: packed({**noise, **photos}),
        TEST: packed({"GTSRB/Final_Test/Images/GT-final_test.test.csv": b"", **tested}),
        TEST_LABELS: packed({"GT-final_test.csv": table.encode()}),
    }


def test_photographs_come_in_order_of_name_resized_with_their_class():
    raw = read_gtsrb(archives())
    assert raw.train.shape == (3, 32, 32, 3)
    assert raw.train_labels.tolist() == [0, 14, 42]
    assert raw.test_labels.tolist() == [14, 3]
    assert np.array_equal(raw.train[2], PHOTOS["GTSRB/Training/00042/00003_00000.ppm"])
    smooth = to_input(TESTED["GTSRB/Final_Test/Images/00001.ppm"], (32, 32), 3).transpose(1, 2, 0)
    assert np.array_equal(raw.test[1], smooth)
    assert raw.test[1].std() < 0.7 * TESTED["GTSRB/Final_Test/Images/00001.ppm"].std(), "averaged, not picked"


def test_pillow_reads_the_same_pixels():
    name, pixels = next(iter(PHOTOS.items()))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(ppm(pixels)))), pixels), name


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"P6\n60000 60000\n255\n", "60000x60000 px"),
        (b"P6\n100 100\n255\nshort", "ppm"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "ppm"),
        (bytes(2_000_000), "2000000 bytes"),
        (b"", "ppm"),
    ],
)
def test_a_photograph_that_is_none_or_too_large_is_refused(content: bytes, seen: str):
    with pytest.raises(BadInput, match=rf"{seen}.*data fetch gtsrb"):
        read_gtsrb(archives({"GTSRB/Training/00014/00000_00001.ppm": content}))


@pytest.mark.parametrize(
    ("table", "seen"),
    [
        (TABLE.replace("00001.ppm", "00009.ppm"), "00001.ppm"),
        (TABLE.replace("ClassId", "Class"), "ClassId"),
        (TABLE.replace(";14\n", ";43\n"), "class 43"),
        (TABLE.replace(";14\n", ";stop\n"), "stop"),
        ("", "00000.ppm"),
    ],
)
def test_a_table_that_does_not_fit_the_test_images_is_refused(table: str, seen: str):
    with pytest.raises(BadInput, match=seen):
        read_gtsrb(archives(table=table))


def test_archives_that_are_none_or_lack_photographs_are_refused():
    short, other = archives()[TRAIN][:-40], packed({"a.ppm": b""})
    for broken in ({TRAIN: b"no zip"}, {TRAIN: short}, {TEST: other}, {TEST_LABELS: other}):
        with pytest.raises(BadInput, match="not the archives of GTSRB"):
            read_gtsrb({**archives(), **broken})


def test_a_damaged_photograph_in_an_archive_is_refused():
    content = bytearray(archives()[TRAIN])
    place = content.index(b"00014/00000_00001.ppm") + 60
    content[place : place + 40] = bytes(40)
    with pytest.raises(BadInput, match="not the archives of GTSRB"):
        read_gtsrb({**archives(), TRAIN: bytes(content)})


def test_as_a_source_signs_have_names_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    contents = archives()
    raw_folder(Home.find(), "gtsrb").mkdir(parents=True)
    for name, content in contents.items():
        (raw_folder(Home.find(), "gtsrb") / name).write_bytes(content)
    digests = {name: sha256_bytes(content) for name, content in contents.items()}
    monkeypatch.setitem(SETS, "gtsrb", dataclasses.replace(SETS["gtsrb"], digests=digests))
    options = [{"set": "gtsrb", "normal": normal} for normal in ("stop", 14)]
    by_name, by_number = (
        list(open_source("signs", DatasetSettings(source="one_vs_rest", options=one)).candidates()) for one in options
    )
    assert by_name == by_number
    assert [(str(one.split), one.category, one.label) for one in by_name] == [
        ("train", "stop", 0),
        ("test", "stop", 0),
        ("test", "speed-60", 1),
    ]


def test_there_are_43_classes():
    assert len(set(SETS["gtsrb"].classes)) == 43
    assert SETS["gtsrb"].classes[14] == "stop"
    assert SETS["gtsrb"].classes[40] == "roundabout"
