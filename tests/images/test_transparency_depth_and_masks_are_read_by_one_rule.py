"""What is transparent is black in every mode; grey values have the bits that a camera fills; masks by one rule."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from xadflow.errors import BadImage
from xadflow.images import ImageLimits, decode_image, decode_mask
from xadflow.images.bounds import check_scans
from xadflow.images.decoding import deepest_value, has_further_frames

SEEN = np.arange(40, 40 + 64, dtype=np.uint8).reshape(8, 8) * 2
HIDDEN = np.zeros((8, 8), bool)
HIDDEN[2:5, 3:7] = True


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def keyed(values: np.ndarray, key: Any) -> bytes:
    return file_of(Image.fromarray(values), transparency=key)


def with_alpha(mode: str, form: str, under: int) -> bytes:
    values = np.where(HIDDEN, under, SEEN).astype(np.uint8)
    alpha = Image.fromarray(np.where(HIDDEN, 0, 255).astype(np.uint8))
    grey = Image.fromarray(values)
    bands = [grey, alpha] if mode == "LA" else [grey, grey, grey, alpha]
    return file_of(Image.merge(mode, bands), form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))


def palette(under: int) -> bytes:
    values = np.where(HIDDEN, 255, SEEN).astype(np.uint8)
    image = Image.fromarray(values).convert("P")
    image.putpalette([value for grey in range(255) for value in (grey, grey, grey)] + [under] * 3)
    return file_of(image, transparency=255)


FORMS: dict[str, Callable[[int], bytes]] = {
    "LA PNG": lambda under: with_alpha("LA", "PNG", under),
    "LA TIFF": lambda under: with_alpha("LA", "TIFF", under),
    "RGBA PNG": lambda under: with_alpha("RGBA", "PNG", under),
    "RGBA TIFF": lambda under: with_alpha("RGBA", "TIFF", under),
    "RGBA WebP": lambda under: with_alpha("RGBA", "WEBP", under),
    "palette with a transparent colour": palette,
    "L with a key": lambda under: keyed(np.where(HIDDEN, under | 1, SEEN).astype(np.uint8), under | 1),
    "RGB with a key": lambda under: keyed(
        np.where(HIDDEN, under | 1, SEEN).astype(np.uint8)[..., None].repeat(3, axis=2), (under | 1,) * 3
    ),
    "16 bits with a key": lambda under: keyed(
        np.where(HIDDEN, under * 256 + 1, SEEN * np.uint16(256)).astype(np.uint16), under * 256 + 1
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("under", [0, 90, 250])
def test_what_is_transparent_is_black_whatever_colour_lies_under_it(form: str, under: int) -> None:
    seen = decode_image(FORMS[form](under))
    grey = seen if seen.ndim == 2 else seen[..., 0]
    assert np.array_equal(grey, np.where(HIDDEN, 0, SEEN))


def test_half_transparent_is_half_as_bright_and_opaque_alpha_changes_nothing() -> None:
    grey = Image.fromarray(np.full((4, 4), 200, np.uint8))
    half, full = (Image.fromarray(np.full((4, 4), alpha, np.uint8)) for alpha in (128, 255))
    assert decode_image(file_of(Image.merge("LA", [grey, half]))).tolist() == [[100] * 4] * 4
    assert np.array_equal(decode_image(file_of(Image.merge("LA", [grey, full]))), np.asarray(grey))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_values_keep_the_high_eight_of_the_bits_a_camera_fills(bits: int, form: str) -> None:
    content = file_of(Image.fromarray(SEEN.astype(np.uint16) << (bits - 8)), form)
    assert np.array_equal(decode_image(content, ImageLimits(max_bits=bits)), SEEN)
    assert deepest_value(content, ImageLimits()) == int(SEEN.max()) << (bits - 8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_value_beyond_the_bits_is_said_and_not_wrapped(bits: int) -> None:
    values = np.zeros((4, 4), np.uint16)
    values[0, 0] = 1 << bits
    with pytest.raises(BadImage, match=f"beyond the {bits} bits") as caught:
        decode_image(file_of(Image.fromarray(values)), ImageLimits(max_bits=bits))
    assert caught.value.reason == "too-many-bits"
    assert "bit_depth" in str(caught.value)


def test_images_of_eight_bits_have_no_depth_to_find() -> None:
    for content in (file_of(Image.fromarray(SEEN)), with_alpha("RGBA", "PNG", 9), b"no image"):
        assert deepest_value(content, ImageLimits()) is None
    assert np.array_equal(decode_image(file_of(Image.fromarray(SEEN)), ImageLimits(max_bits=12)), SEEN)


DISC = np.hypot(*np.mgrid[-32:32, -32:32]) < 9


@pytest.mark.parametrize("value", [1, 2, 255, 256, 65_535])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_each_value_that_is_not_0_marks_a_defect_in_any_depth(value: int, form: str) -> None:
    drawn = (DISC * value).astype(np.uint8 if value < 256 else np.uint16)
    assert np.array_equal(decode_mask(file_of(Image.fromarray(drawn), form)), DISC)
    assert np.array_equal(decode_mask(file_of(Image.fromarray((DISC * value).astype(np.uint16)), form)), DISC)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize(("form", "options"), [("JPEG", {}), ("WEBP", {}), ("TIFF", {"compression": "jpeg"})])
def test_a_mask_in_a_format_that_rounds_has_the_area_that_was_drawn(form: str, options: dict, quality: int) -> None:
    image = Image.fromarray((DISC * 255).astype(np.uint8))
    area = int(decode_mask(file_of(image, form, quality=quality, **options)).sum())
    assert area == pytest.approx(DISC.sum(), rel=0.06)


def test_masks_of_colours_palettes_single_bits_and_alpha() -> None:
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[DISC, 2] = 1
    single = Image.fromarray(DISC)
    paletted = Image.fromarray(DISC.astype(np.uint8)).convert("P")
    paletted.putpalette([0, 0, 0, 128, 0, 0])
    clear = Image.merge("LA", [Image.new("L", (64, 64), 255), Image.fromarray((DISC * 255).astype(np.uint8))])
    lossless = file_of(Image.fromarray(blue), "WEBP", lossless=True)
    for content in (file_of(Image.fromarray(blue)), file_of(single), file_of(paletted), file_of(clear), lossless):
        assert np.array_equal(decode_mask(content), DISC)


def test_a_blank_mask_marks_nothing_also_as_jpeg() -> None:
    for form in ("PNG", "JPEG"):
        assert not decode_mask(file_of(Image.new("L", (16, 16)), form)).any()


@pytest.mark.parametrize("form", ["PPM", "JPEG"])
def test_netpbm_and_jfif_are_images_like_any_other(form: str) -> None:
    assert np.abs(decode_image(file_of(Image.fromarray(SEEN), form)).astype(int) - SEEN).max() <= 4


def test_further_pages_are_seen_and_one_page_is_none() -> None:
    pages = [Image.fromarray(SEEN), Image.fromarray(SEEN // 2)]
    for form in ("TIFF", "WEBP", "PNG"):
        assert has_further_frames(file_of(pages[0], form, save_all=True, append_images=pages[1:]))
        assert not has_further_frames(file_of(pages[0], form))
    assert not has_further_frames(b"no image")


def scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose first scan is said `count` times over: a small file, decoded for seconds a megapixel."""
    content = file_of(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    start = content.index(b"\xff\xda")
    end = content.find(b"\xff\xda", start + 2)
    again = content.rindex(b"\xff\xda")
    last = content[again:-2]
    assert end > 0
    return content[:again] + last * count + b"\xff\xd9"


def test_a_jpeg_of_endless_scans_is_refused_before_a_pixel_is_decoded(monkeypatch) -> None:
    bomb = scans(4000, 2000)
    assert len(bomb) < 4_000_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it takes minutes to decode"))
    with pytest.raises(BadImage, match="too slow") as caught:
        decode_image(bomb)
    assert caught.value.reason == "too-slow"


def test_what_encoders_write_is_never_too_slow_and_small_images_may_have_many_scans() -> None:
    ordinary = file_of(Image.fromarray(SEEN), "JPEG", progressive=True)
    assert ordinary.count(b"\xff\xda") >= 3
    decode_image(ordinary)
    check_scans(b"\xff\xda" * 20, "JPEG", 10**9, ImageLimits())
    check_scans(b"\xff\xda" * 4000, "PNG", 10**9, ImageLimits())
    check_scans(b"\xff\xda" * 100, "JPEG", 64 * 64, ImageLimits())
    with pytest.raises(BadImage, match="21 scans"):
        check_scans(b"\xff\xda" * 21, "JPEG", 5_000_000, ImageLimits())
