"""EXIF orientation is applied where an image is decoded, so that a detector sees what a person sees."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from xadflow.datasets.border import admit
from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate
from xadflow.images import ImageLimits, decode_image

UPRIGHT = np.repeat(np.repeat(np.array([[10, 90], [170, 250], [50, 130]], np.uint8), 16, axis=0), 16, axis=1)  # 48 x 32
# How a camera stores the upright picture under each orientation, written out by rows and columns: Exif 2.32, 4.6.4 A.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}


def file_of(pixels: np.ndarray, orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stream, quality = io.BytesIO(), {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}[form]
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format=form, exif=exif, **quality)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_of_any_orientation_is_decoded_upright(orientation: int, form: str) -> None:
    seen = decode_image(file_of(STORED[orientation], orientation, form))
    if seen.ndim == 3:  # WebP has no grey
        seen = seen[..., 0]
    assert seen.shape == UPRIGHT.shape
    assert np.abs(seen.astype(int) - UPRIGHT).max() <= 3  # JPEG rounds


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_images_are_turned_too(orientation: int) -> None:
    deep = np.ascontiguousarray(STORED[orientation].astype(np.uint16) * 257)
    assert (decode_image(file_of(deep, orientation, "PNG")) == UPRIGHT).all()


@pytest.mark.parametrize("damaged", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_a_damaged_tag_is_no_tag(damaged: bytes) -> None:
    stream = io.BytesIO()
    Image.fromarray(UPRIGHT).save(stream, format="PNG", exif=damaged)
    assert (decode_image(stream.getvalue()) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_a_number_that_names_no_orientation_turns_nothing(orientation: int) -> None:
    assert (decode_image(file_of(UPRIGHT, orientation, "PNG")) == UPRIGHT).all()


def test_the_manifest_has_the_size_a_person_sees_and_the_hash_of_the_bytes_as_they_lie(tmp_path: Path) -> None:
    content, mask = file_of(STORED[6], 6, "JPEG"), file_of((UPRIGHT > 200).astype(np.uint8), 1, "PNG")
    lying = file_of((STORED[6] > 200).astype(np.uint8), 6, "PNG")  # a mask with a tag of its own is turned by it
    turned = file_of((STORED[6] > 200).astype(np.uint8), 1, "PNG")

    others = iter((content, file_of(STORED[6] // 2, 6, "JPEG"), file_of(STORED[6] // 3, 6, "JPEG")))

    def candidate(name: str, mask: bytes) -> Candidate:
        return Candidate(
            origin=name,
            target=name,
            content=next(others),
            split=Split.TEST,
            label=1,
            category="bolt",
            defect="scratch",
            source="folder bolt",
            licence="not stated",
            mask=mask,
            mask_target=f"mask-{name}.png",
        )

    offered = [candidate("fits.jpg", mask), candidate("tagged.jpg", lying), candidate("turned.jpg", turned)]
    admission = admit(offered, tmp_path, ImageLimits())
    assert [(row.path, row.width, row.height) for row in admission.rows] == [
        ("images/fits.jpg", 32, 48),
        ("images/tagged.jpg", 32, 48),
    ]
    assert admission.rows[0].image_id == hashlib.sha256(content).hexdigest()
    (refused,) = admission.refused
    assert (refused.reason, refused.detail) == ("mask-size", "its mask mask-turned.jpg.png is 48x32, the image 32x48")
