"""Copies that no hash tells are found across splits, and a defect among the normals by leaving it out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from xadflow.datasets.leaks import SIDE_PX, left_out_scores, near_copies, suspects
from xadflow.images import decode_image, to_input

COUNT = 40


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Different captures of one aligned product: a shape that all share, brightness and detail of their own."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:96, :96]
    shape = 90 + 60 * (np.hypot(y - 48, x - 48) < 30)
    return [
        Image.fromarray(
            np.clip(
                shape * rng.uniform(0.9, 1.1) + gaussian_filter(rng.normal(0, 60, shape.shape), 1.5), 0, 255
            ).astype(np.uint8)
        )
        for _ in range(COUNT)
    ]


def seen(image: Image.Image) -> np.ndarray:
    return to_input(np.asarray(image), (SIDE_PX, SIDE_PX), 1)[0]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    return Image.fromarray(decode_image(stream.getvalue()))


CHANGES = {
    "re-compressed": lambda image: jpeg(image, 60),
    "brighter": lambda image: image.point(lambda grey: min(255, grey * 1.15)),
    "darker and re-compressed": lambda image: jpeg(image.point(lambda grey: grey * 0.8), 75),
    "re-sized": lambda image: image.resize((144, 144), Image.Resampling.LANCZOS),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_in_another_split_is_named_and_no_other_pair_is(change: str, pictures) -> None:
    thumbnails = np.stack([seen(image) for image in [*pictures, CHANGES[change](pictures[3])]])
    splits = ["train"] * 20 + ["test"] * 20 + ["test"]
    assert [(pair.one, pair.other) for pair in near_copies(thumbnails, splits)] == [(3, COUNT)]
    assert not near_copies(thumbnails, ["train"] * (COUNT + 1))


def test_flat_images_are_no_copies_and_few_images_say_nothing(pictures) -> None:
    flat = [np.full((SIDE_PX, SIDE_PX), 255, np.uint8), np.zeros((SIDE_PX, SIDE_PX), np.uint8)]
    thumbnails = np.stack([seen(image) for image in pictures] + flat * 2)
    assert not near_copies(thumbnails, ["train"] * (COUNT + 2) + ["test"] * 2)
    assert not near_copies(thumbnails[:4], ["train", "test"] * 2)
    assert not suspects(thumbnails[:4])


@pytest.mark.parametrize("grey", [5, 250])
@pytest.mark.parametrize("where", [(10, 10), (60, 40)])
def test_a_defect_among_the_normals_is_the_first_suspect(grey: int, where: tuple[int, int], pictures) -> None:
    pixels = np.asarray(pictures[7]).copy()
    pixels[where[0] : where[0] + 14, where[1] : where[1] + 14] = grey
    thumbnails = np.stack([seen(image) for image in pictures])
    assert len(suspects(thumbnails)) <= 1  # a person looks at one sound image in vain, not at many
    thumbnails[7] = seen(Image.fromarray(pixels))
    assert suspects(thumbnails)[0].image == 7


def test_a_score_leaves_the_image_itself_out(pictures) -> None:
    """By brute force: the nearest patch of any other image."""
    few = np.stack([seen(image) for image in pictures[:12]])
    patches = np.stack(
        [
            [one[y : y + 8, x : x + 8].ravel() for y in range(0, 57, 4) for x in range(0, 57, 4)]
            for one in few.astype(np.float64)
        ]
    )
    others = patches[np.arange(12) != 5].reshape(-1, 64)
    expected = max(np.sqrt(((others - patch) ** 2).sum(axis=1).min()) for patch in patches[5])
    assert left_out_scores(few)[5] == pytest.approx(expected, rel=1e-3)
