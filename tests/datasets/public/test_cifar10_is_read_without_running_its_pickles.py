"""CIFAR-10's archive: read whole and in the right order, and nothing that a hostile pickle asks for is ever run.

The real archive is not here. `python2_pickle` writes, opcode by opcode, what cPickle of Python 2 wrote for such a
dictionary in 2009; the standard unpickler is asked whether it agrees.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import struct
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from xadflow.datasets.public.cifar import ARCHIVE, read_cifar10
from xadflow.datasets.public.raw_files import raw_folder
from xadflow.datasets.public.sets import SETS
from xadflow.datasets.sources import open_source
from xadflow.digests import sha256_bytes
from xadflow.errors import BadInput, DataUnavailable
from xadflow.images import decode_image
from xadflow.settings import DatasetSettings, Home

RNG = np.random.default_rng(0)
PARTS = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def string(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def array(rows: np.ndarray, by_columns: bool = False) -> bytes:
    content = rows.tobytes(order="F" if by_columns else "C")
    kind = b"cnumpy\ndtype\n" + string(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + string(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + string(b"b") + b"\x87R"
    shape = number(rows.shape[0]) + number(rows.shape[1]) + b"\x86"
    return made + b"(" + number(1) + shape + kind + (b"\x88" if by_columns else b"\x89") + string(content) + b"tb"


def listed(values: list[bytes]) -> bytes:
    return b"](" + b"".join(values) + b"e"


def python2_pickle(rows: np.ndarray, labels: list[int], by_columns: bool = False) -> bytes:
    items = (
        string(b"batch_label")
        + string(b"training batch 1 of 5")
        + string(b"labels")
        + listed([number(one) for one in labels])
        + string(b"data")
        + array(rows, by_columns)
        + string(b"filenames")
        + listed([string(b"leptodactylus_pentadactylus_s_000004.png")] * len(labels))
    )
    return b"\x80\x02}(" + items + b"u."


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(scope="module")
def batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Four images a part: rows uint8 [4,3072] and labels."""
    return {
        name: (RNG.integers(0, 256, (4, 3072), dtype=np.uint8), [place, 3, 9, 0]) for place, name in enumerate(PARTS)
    }


def archive_of(batches: dict[str, tuple[np.ndarray, list[int]]], **others: bytes) -> bytes:
    members = {name: others.get(name, python2_pickle(*batch)) for name, batch in batches.items()}
    return packed({f"cifar-10-batches-py/{name}": content for name, content in members.items()})


def test_the_pickles_of_these_tests_are_what_the_standard_unpickler_reads(batches):
    rows, labels = batches["data_batch_1"]
    for by_columns in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy.core has another name today
            found = pickle.loads(python2_pickle(rows, labels, by_columns), encoding="bytes")  # noqa: S301 written above
        assert np.array_equal(found[b"data"], rows)
        assert found[b"labels"] == labels


def test_images_come_in_the_order_of_the_parts_with_colours_last(batches):
    members = {f"cifar-10-batches-py/{name}": python2_pickle(*batches[name]) for name in reversed(PARTS)}
    raw = read_cifar10(packed({"cifar-10-batches-py/readme.html": b"<a>", **members, "../outside": b"not looked at"}))
    assert raw.train.shape == (20, 32, 32, 3)
    assert raw.test.shape == (4, 32, 32, 3)
    assert raw.train_labels.tolist() == [label for name in PARTS[:5] for label in batches[name][1]]
    for place, name in enumerate(PARTS[:5]):
        row = batches[name][0][2]
        for channel in range(3):
            plane = row[1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
            assert np.array_equal(raw.train[4 * place + 2, :, :, channel], plane)
    assert np.array_equal(
        raw.test[1, 5, 7], batches["test_batch"][0][1][[5 * 32 + 7, 1024 + 5 * 32 + 7, 2048 + 5 * 32 + 7]]
    )


def test_an_array_stored_by_columns_is_the_same_array(batches):
    rows, labels = batches["test_batch"]
    there = read_cifar10(archive_of(batches, test_batch=python2_pickle(rows, labels, by_columns=True)))
    assert np.array_equal(there.test, read_cifar10(archive_of(batches)).test)


class Hostile:
    """Asks an unpickler to make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_before_it_runs(batches, tmp_path: Path):
    for protocol in range(6):
        hostile = pickle.dumps({"data": Hostile(tmp_path / "broken-in")}, protocol)
        with pytest.raises(BadInput, match=r"asks for posix\.mkdir.*data fetch cifar10"):
            read_cifar10(archive_of(batches, data_batch_3=hostile))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "asked", [b"builtins\neval", b"numpy\nload", b"numpy.core.multiarray\nscalar", b"numpy\nndarray.dump"]
)
def test_even_names_beside_the_known_ones_are_refused(batches, asked: bytes):
    with pytest.raises(BadInput, match="asks for"):
        read_cifar10(archive_of(batches, test_batch=b"\x80\x02c" + asked + b"\n."))


def test_anything_else_in_a_pickle_is_refused(batches):
    rows, labels = batches["test_batch"]
    wrong = {
        "labels that are no list": python2_pickle(rows, labels[:-1]),
        "labels 0 to 11": python2_pickle(rows, [0, 1, 11, 2]),
        "shape": python2_pickle(rows[:, :-1], labels),
        "without data": b"\x80\x02}.",
        "(EOF|Unpickling)Error": b"no pickle",
        "UnpicklingError": python2_pickle(rows, labels).replace(rows.tobytes(), rows.tobytes()[:-3]),
        "cannot reshape": python2_pickle(rows, labels).replace(string(rows.tobytes()), string(rows.tobytes()[:-3])),
    }
    for seen, content in wrong.items():
        with pytest.raises(BadInput, match=f"(?s)not the archive of CIFAR-10.*({seen})"):
            read_cifar10(archive_of(batches, test_batch=content))


def test_an_archive_that_is_cut_short_or_lacks_a_part_is_refused(batches):
    whole = archive_of(batches)
    some = {name: batches[name] for name in PARTS[1:]}
    for content in (whole[:2000], b"", b"\x1f\x8b" + whole[5:]):
        with pytest.raises(BadInput, match="Error"):
            read_cifar10(content)
    with pytest.raises(BadInput, match="no data_batch_1"):
        read_cifar10(archive_of(some))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches) -> Home:
    """A project whose CIFAR-10 are the 24 images of these tests."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    home, content = Home.find(), archive_of(batches)
    raw_folder(home, "cifar10").mkdir(parents=True)
    (raw_folder(home, "cifar10") / ARCHIVE).write_bytes(content)
    known = dataclasses.replace(SETS["cifar10"], digests={ARCHIVE: sha256_bytes(content)})
    monkeypatch.setitem(SETS, "cifar10", known)
    return home


def test_as_a_source_one_class_is_normal_and_pictures_keep_their_colours(home: Home, batches):
    source = open_source("cats", DatasetSettings(source="one_vs_rest", options={"set": "cifar10", "normal": "cat"}))
    found = list(source.candidates())
    assert [one.category for one in found if one.split == "train"] == ["cat"] * 6  # data_batch_4's first too
    assert [(one.category, one.label) for one in found if one.split == "test"] == [
        ("dog", 1),
        ("cat", 0),
        ("truck", 1),
        ("airplane", 1),
    ]
    shown = decode_image(found[-1].content)
    assert np.array_equal(shown.transpose(2, 0, 1).ravel(), batches["test_batch"][0][3])
    assert source.origin().startswith("cifar10, train images sha256 ")


def test_no_pickle_is_opened_before_the_sha256_held(home: Home, batches):
    (raw_folder(home, "cifar10") / ARCHIVE).write_bytes(
        archive_of(batches, test_batch=pickle.dumps(Hostile(Path("x"))))
    )
    source = open_source("cats", DatasetSettings(source="one_vs_rest", options={"set": "cifar10", "normal": "cat"}))
    with pytest.raises(DataUnavailable, match="data fetch cifar10"):
        next(source.candidates())
