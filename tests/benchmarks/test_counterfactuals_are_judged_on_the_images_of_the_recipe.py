"""Images, judges' inputs, picture and page of bench-counterfactuals, on digits drawn by hand: no raw file is read."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import counterfactuals
from benchmarks.counterfactuals_kit import images as kit
from benchmarks.counterfactuals_kit.baselines import by_hand
from benchmarks.counterfactuals_kit.grid import EACH, write_grid
from benchmarks.counterfactuals_kit.readers import strokes
from benchmarks.counterfactuals_table import counterfactuals_section
from benchmarks.kit.rows import summed_rows
from benchmarks.kit.sheets import GAP, SCALE
from xadflow.datasets.public.colours import painted


@pytest.fixture
def raw(monkeypatch):
    """600 train and 300 test strokes, a tenth of each digit; no two alike."""

    def drawn(train):
        count = 600 if train else 300
        rng = np.random.default_rng(train)
        return rng.integers(0, 256, (count, 28, 28)).astype(np.uint8), (np.arange(count) % 10).astype(np.uint8)

    monkeypatch.setattr(kit, "_raw", drawn)
    kit.test_images.cache_clear()
    yield drawn
    kit.test_images.cache_clear()


def origins(found, strokes_of):
    """Which stroke image each was painted of."""
    key = {image.tobytes(): number for number, image in enumerate(strokes_of)}
    full = [
        np.where(colour == 6, one.max(axis=0).astype(int) * 2, one.max(axis=0))
        for one, colour in zip(found.images, found.colours, strict=True)
    ]
    return [
        key.get(np.minimum(one, 255).astype(np.uint8).tobytes())
        for one, colour in zip(full, found.colours, strict=True)
        if colour != 6
    ]  # grey is rounded: half of a brightness loses its last bit


def test_an_image_is_its_strokes_in_its_colour(raw):
    found, (strokes_of, digits) = kit.test_images(), raw(False)
    assert (found.digits == digits).all()
    for image, stroke, colour in zip(found.images[:50], strokes_of[:50], found.colours[:50], strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), painted(stroke, kit.COLOUR_NAMES[colour]))
    assert len(set(found.colours.tolist())) == 7


def test_train_normals_are_normal_half_of_them_ones_and_no_digit_is_there_twice(raw):
    found = kit.train_normals()
    assert found.is_normal.all()
    assert (found.digits == kit.ONE).mean() == 0.5
    assert (found.colours[found.digits != kit.ONE] == kit.CYAN).all()
    known = [one for one in origins(found, raw(True)[0]) if one is not None]
    assert len(known) == len(set(known)) > 50


def test_the_exposure_holds_every_digit_and_no_cyan(raw):
    found = kit.recoloured(400)
    assert (found.colours != kit.CYAN).all()
    assert set(found.digits.tolist()) == set(range(10))
    assert set(found.colours.tolist()) == set(range(7)) - {kit.CYAN}


def test_by_hand_is_the_same_digit_in_cyan(raw):
    found, (strokes_of, digits) = kit.test_images(), raw(False)
    made = by_hand(None, found)[:, 0]
    right = kit.coloured(strokes_of, digits, np.full(len(digits), kit.CYAN)).images
    assert np.abs(made.astype(int) - right).max() <= 1
    assert (made[found.colours != 6] == right[found.colours != 6]).all()


def test_the_digit_reader_sees_no_colour(raw):
    found = kit.test_images()
    seen = {
        strokes(torch.from_numpy(painted(raw(False)[0][0], name)).permute(2, 0, 1)[None] / 255.0)
        .numpy()
        .round(2)
        .tobytes()
        for name in kit.COLOUR_NAMES
        if name != "grey"
    }
    assert len(seen) == 1
    assert len(found) == 300


def test_the_picture_shows_the_images_untouched_with_the_recolouring_concept_first(raw, tmp_path):
    found = kit.test_images()
    made = np.stack([np.full_like(found.images, 10), np.full_like(found.images, 200)], axis=1)
    write_grid(found, made, (1, 0), tmp_path / "grid.png")
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))[::SCALE, ::SCALE]
    first = np.flatnonzero(found.colours == 0)[0]
    np.testing.assert_array_equal(sheet[GAP : GAP + 28, GAP : GAP + 28], found.images[first].transpose(1, 2, 0))
    assert [int(sheet[GAP + line * (28 + GAP), GAP, 0]) for line in (1, 2)] == [200, 10]
    assert sheet.shape[1] == 6 * EACH * (28 + GAP) + GAP


def a_cell(strict, roles):
    """Figures of a cell, as the measures give them."""
    judge = {"normality": 51.0, "normality_each": [70.0, 32.0], "flipped": 0.99}
    return {
        "explained": judge,
        "second": judge | {"normality": 58.0},
        "fid_n": 5.7,
        "kid_n": 2.2,
        "normal_by_definition": 0.994,
        "colour_only": [0.0, 0.98],
        "digit_only": [0.85, 0.0],
        "roles": roles,
        "strict": strict,
        "loose": 0.98,
        "l1": [0.12, 0.20],
        "normals_l1": [0.02, 0.03],
        "perceptual": 0.1,
        "noise_pixels": 0.0123,
        "noise_probability": 0.02,
        "concept_accuracy": 1.0,
        "substitution_auroc": 0.95,
        "apart": 0.2,
        "cosine": 0.17,
        "detector": {"exposure_kept": 14000, "exposure_ones": 0.005, "auroc": 0.9997},
    }


def test_the_page_has_every_seed_a_mean_for_several_and_what_is_missing():
    cells = [counterfactuals.Cell("bce", "full", seed) for seed in (0, 1)] + [counterfactuals.Cell("hsc", "full", 0)]
    found = {cells[0]: {"figures": a_cell(0.8, [1, 0])}, cells[1]: {"figures": a_cell(0.6, [1, 0])}}
    rows = summed_rows({(f"{cell.method} full", cell): one for cell, one in found.items()}, counterfactuals.FIGURES)
    rows["bce full"]["seed_difference"] = 0.321
    assert rows["bce full"]["mean"]["strict"] == pytest.approx(0.7)
    assert rows["bce full"]["sd"]["strict"] == pytest.approx(0.02**0.5)
    page = counterfactuals_section(
        {
            "rows": rows,
            "baselines": {},
            "missing": [str(cells[2])],
            "commits": ["abc"],
            "images": 1500,
            "baseline_images": 256,
            "published_bce": counterfactuals.PUBLISHED,
            "readers": {"digits": 0.98, "colours": 1.0},
            "settings": {
                "full": {"concepts": 2},
                "sizes": {"exposure": 16000},
                "of_method": {"bce": {}, "hsc": {"score": 4.0}},
            },
            "controls": {
                "random_weights": {
                    "auroc": 0.55,
                    "flagged": 0.1,
                    "images": 256,
                    "flipped": 1.0,
                    "normal_by_definition": 0.02,
                    "normal_by_definition_flagged": 0.04,
                },
                "relabelled": {
                    "definition": "magenta or 7",
                    "auroc": 0.999,
                    "steps": 700,
                    "images": 500,
                    "share_normal": {"relabelled": 0.97, "original": 0.03},
                },
                "explained": {"images": 490, "steps": 1500, "share_normal": {"relabelled": 0.04, "original": 0.99}},
            },
        }
    )
    assert "| bce full | 0 | **51.0** (32 / 70)" in page
    assert "70.0 ± 14.1" in page
    assert "| 0.100 | 0.0123 / 0.0200 |  |" in page
    assert "| 0.321 |" in page
    assert "generator of `hsc` has the settings `score: 4.0`" in page
    assert "97.0% of its counterfactuals" in page
    assert "0.030 in all rows" in page
    assert "Not run: hsc full" in page
    assert (
        "**Missed**: bce full seed 0: second of the concept that recolours, second of the concept that redraws; "
        in page
    )
    assert "bce full seed 1: strict, second" in page


def test_only_takes_detectors_variants_and_seeds(monkeypatch):
    everything = counterfactuals.wanted_cells(False)
    assert len(everything) == len(set(everything)) == 11
    study = counterfactuals.STUDY
    assert all(study.is_asked_for(cell, everything) for cell in everything)
    monkeypatch.setattr(study.given, "only", ["bce", "full", "2"])
    chosen = [str(cell) for cell in everything if study.is_asked_for(cell, everything)]
    assert chosen == [str(counterfactuals.Cell("bce", "full", 2))]
