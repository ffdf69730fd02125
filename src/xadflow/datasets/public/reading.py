"""The images and labels of public sets, from their raw files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xadflow.datasets.public import cifar
from xadflow.datasets.public.gtsrb import read_gtsrb
from xadflow.datasets.public.idx import parse_idx
from xadflow.datasets.public.raw_files import read_files
from xadflow.datasets.public.sets import IDX_FILES, RawImages
from xadflow.errors import unknown_name
from xadflow.settings import Home


def read_raw(home: Home, name: str) -> RawImages:
    """The images of a labelled set that was fetched.

    Raises:
        UnknownName: no set with labels has this name.
        DataUnavailable: a raw file is missing or another one.
        BadInput: a raw file has the known content and another form than we read.
    """
    if name not in READERS:
        raise unknown_name("no public set with labels has this name", name, READERS)
    return READERS[name](dict(read_files(home, name)))


def _from_idx(contents: Mapping[str, bytes]) -> RawImages:
    return RawImages(*(parse_idx(contents[file], 3 if "images" in file else 1) for file in IDX_FILES))


def _from_cifar10(contents: Mapping[str, bytes]) -> RawImages:
    return cifar.read_cifar10(contents[cifar.ARCHIVE])


READERS: Mapping[str, Callable[[Mapping[str, bytes]], RawImages]] = {
    "mnist": _from_idx,
    "fashion-mnist": _from_idx,
    "cifar10": _from_cifar10,
    "gtsrb": read_gtsrb,
}
