"""Traffic signs, GTSRB (Stallkamp et al., IJCNN 2011), from the published zip archives: PPM files, one a photograph.

The sides of the photographs are 15 to 250 px; each is resized to 32 x 32, antialiased, its aspect not kept, as
detectors get any image (images.to_input). Train images of one sign are up to 30 frames of one drive past it; the
archive that torchvision takes is that of the competition, with 26,640 of the 39,209 of the benchmark. Nothing of the
archives is written to disk.

The archives could not be fetched where this was written. Names and columns are those of torchvision's reader and of
the benchmark's own page (https://benchmark.ini.rub.de/gtsrb_dataset.html); tests read small archives of that form.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from xadflow.datasets.public.sets import RawImages
from xadflow.errors import BadInput
from xadflow.images import to_input

TRAIN, TEST, TEST_LABELS = "GTSRB-Training_fixed.zip", "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip"
SIDE_PX = 32
_CLASSES = 43
_TABLE = "GT-final_test.csv"
_TRAIN_NAME = re.compile(r"GTSRB/Training/(\d{5})/[^/]+\.ppm")
_TEST_NAME = re.compile(r"GTSRB/Final_Test/Images/([^/]+\.ppm)")
_MOST_SIDE_PX = 512
_MOST_BYTES = 3 * _MOST_SIDE_PX**2 + 1000  # of one file unpacked; the table of 12,630 labels has some 60 bytes a line
_MOST_FILES = 100_000


def read_gtsrb(contents: Mapping[str, bytes]) -> RawImages:
    """Images uint8 [N,32,32,3] and labels of the archives' bytes by name, in order of file name.

    Raises BadInput when the form of an archive is another one, or a photograph is larger than 512 px.
    """
    try:
        with _opened(contents[TRAIN]) as archive:
            named = _matching(archive, _TRAIN_NAME)
            train = _images(archive, named)
            train_labels = _labels(match[1] for match in named.values())
        with _opened(contents[TEST_LABELS]) as archive:
            lines = _content(archive, archive.getinfo(_TABLE)).decode("ascii").splitlines()
        class_of = {
            row["Filename"]: row["ClassId"] for row in csv.DictReader(lines, delimiter=";", skipinitialspace=True)
        }
        with _opened(contents[TEST]) as archive:
            named = _matching(archive, _TEST_NAME)
            test = _images(archive, named)
            test_labels = _labels(class_of[match[1]] for match in named.values())
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as err:
        raise _other_form(f"{type(err).__name__}: {err}"[:200]) from err
    except (KeyError, ValueError, TypeError) as err:  # no such column, no such file in the list, no number
        raise _other_form(f"a list of test images that does not fit them: {type(err).__name__} {err}"[:200]) from err
    return RawImages(train, train_labels, test, test_labels)


def _opened(content: bytes) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(content))
    if len(archive.infolist()) > _MOST_FILES:
        raise _other_form(f"{len(archive.infolist())} files in one archive")
    return archive


def _matching(archive: zipfile.ZipFile, pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
    """Names in the archive that match, sorted, with their match."""
    found = {name: match for name in sorted(archive.namelist()) if (match := pattern.fullmatch(name))}
    if not found:
        raise _other_form(f"no file named like {pattern.pattern}")
    return found


def _images(archive: zipfile.ZipFile, names: Iterable[str]) -> NDArray[np.uint8]:
    """The named photographs, uint8 [N,32,32,3]."""
    return np.stack([_resized(name, _content(archive, archive.getinfo(name))) for name in names])


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > _MOST_BYTES:  # zipfile reads no more than this states
        raise _other_form(f"{member.filename} of {member.file_size} bytes")
    return archive.read(member)


def _resized(name: str, content: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=("PPM",)) as opened:
            if max(opened.size) > _MOST_SIDE_PX:  # the header says so: no pixel is decoded yet
                raise _other_form(f"{name} of {opened.width}x{opened.height} px")
            pixels = np.asarray(opened.convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as err:
        raise _other_form(f"{name}: {err}"[:200]) from err
    return to_input(pixels, (SIDE_PX, SIDE_PX), 3).transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)


def _labels(numbers: Iterable[str]) -> NDArray[np.uint8]:
    found = [int(number) for number in numbers]
    if not all(0 <= number < _CLASSES for number in found):
        raise _other_form(f"class {max(found)}")
    return np.array(found, np.uint8)


def _other_form(seen: str) -> BadInput:
    return BadInput("not the archives of GTSRB", seen=seen, next_step="run `xadflow data fetch gtsrb` again")
