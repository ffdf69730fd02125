"""The images and labels of public sets, from their raw files."""

from __future__ import annotations

from xadflow.data.idx import parse_idx
from xadflow.data.public_sets import IDX_FILES, RawImages
from xadflow.data.raw_files import read_files
from xadflow.settings import Home


def read_raw(home: Home, name: str) -> RawImages:
    """The images of a labelled set that was fetched. Raises DataUnavailable when a file is missing or another one."""
    contents = dict(read_files(home, name))
    return RawImages(*(parse_idx(contents[file], 3 if "images" in file else 1) for file in IDX_FILES))
