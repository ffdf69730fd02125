"""Judges, picture and page of bench-counterfactuals-single, on squares and discs drawn by hand: no raw file is read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import counterfactuals_single as bench
from benchmarks.counterfactuals_kit import readers, single
from benchmarks.counterfactuals_kit.readers import classes_and_features, trained_reader
from benchmarks.counterfactuals_single_table import counterfactuals_single_section
from benchmarks.kit.sheets import GAP, SCALE

NORMAL = single.NORMAL["mnist"]


def bars(labels):
    """Digit d is a bright bar at row 2 d + 4: a class that anyone can read."""
    images = np.random.default_rng(len(labels)).integers(0, 40, (len(labels), 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6, 4:24] = 230
    return images


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    labels = np.arange(1000) % 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "STEPS", 50)
        return trained_reader(tmp_path_factory.mktemp("reader") / "reader.pt", lambda: (bars(labels)[:, None], labels))


@pytest.fixture
def known(monkeypatch, reader):
    """200 test bars; a detector whose score is the brightness outside the normal class's bar."""
    labels = np.arange(200) % 10
    of = single.Tested(bars(labels)[:, None], labels, labels == NORMAL)
    monkeypatch.setattr(bench, "tested", lambda name: of)
    monkeypatch.setattr(bench, "reader", lambda name: reader)

    def normal_logit(images):
        rows = images.mean(dim=(1, 3))
        return 20 * (0.12 - (rows.sum(dim=1) - rows[:, 2 * NORMAL + 4 : 2 * NORMAL + 6].sum(dim=1)) / 28)

    detector = SimpleNamespace(normal_logit=normal_logit, calibration=SimpleNamespace(threshold=0.0, temperature=1.0))
    monkeypatch.setattr(bench, "kept_detector", lambda *which: detector)
    monkeypatch.setattr(bench, "second_detector", lambda *which: detector)
    return of


def test_the_reader_is_kept_and_reads(reader, tmp_path, monkeypatch):
    labels = np.arange(300) % 10
    assert (classes_and_features(reader, bars(labels)[:, None])[0] == labels).mean() > 0.95

    def forbidden():
        raise AssertionError

    monkeypatch.setattr(readers, "STEPS", 4)
    path = tmp_path / "reader.pt"
    first = trained_reader(path, lambda: (bars(labels)[:, None], labels))
    again = trained_reader(path, forbidden)
    np.testing.assert_array_equal(*(classes_and_features(one, bars(labels)[:, None])[1] for one in (first, again)))


def test_true_normals_are_read_as_normal_unchanged_anomalies_and_blanks_are_not(known):
    cell, of = single.Cell("mnist", "bce", "full", 0), known.anomalies(40)
    perfect = np.resize(known.normals, of.shape)
    blank = np.zeros_like(of)
    found = {
        name: bench.made_figures(cell, of, made[:, None])
        for name, made in (("perfect", perfect), ("same", of), ("blank", blank))
    }
    assert found["perfect"]["read_as_normal"] > 0.9
    assert found["same"]["read_as_normal"] < 0.1
    assert found["blank"]["read_as_normal"] == 0.0
    assert found["perfect"]["fid_n"] < 20 < found["same"]["fid_n"]
    assert found["perfect"]["explained"]["normality"] == pytest.approx(50, abs=15)
    assert found["same"]["explained"]["normality"] > 90
    assert found["blank"]["explained"]["normality"] < 10  # the detector is fooled, the reader is not
    assert found["same"]["l1"] == [0.0]
    assert found["same"]["perceptual"] == pytest.approx(
        0.0, abs=1e-6
    )  # both sides are float32, in batches of their own
    assert found["perfect"]["perceptual"] > 0.01
    assert found["perfect"]["l1"][0] > 0.05


def test_a_blank_image_is_no_normal_one_whatever_a_reader_makes_of_it(known, monkeypatch):
    def always(reader, images):
        return np.full(len(images), NORMAL), np.random.default_rng(len(images)).normal(size=(len(images), 4))

    monkeypatch.setattr(bench, "classes_and_features", always)
    of = known.anomalies(20)
    made = np.stack([np.zeros_like(of), of // 2], axis=1)
    found = bench.made_figures(single.Cell("mnist", "bce", "full", 0), of, made)
    assert found["read_as_normal_each"] == [0.0, 1.0]


def test_the_reader_is_told_by_concept(known):
    cell, of = single.Cell("mnist", "bce", "full", 0), known.anomalies(40)
    found = bench.made_figures(cell, of, np.stack([np.resize(known.normals, of.shape), of // 2], axis=1))
    assert found["read_as_normal_each"][0] > 0.9 > 0.1 > found["read_as_normal_each"][1]
    assert found["read_as_normal"] == pytest.approx(np.mean(found["read_as_normal_each"]))
    assert found["concept_accuracy"] > 0.6


def test_only_takes_sets_detectors_variants_and_seeds_and_the_first_seed_comes_first(monkeypatch):
    cells = bench.wanted_cells(False)
    assert len(cells) == len(set(cells)) == 8 + 8 + 4
    assert {cell.seed for cell in cells[:16]} == {0}
    assert all(bench.STUDY.is_asked_for(cell, cells) for cell in cells)
    monkeypatch.setattr(bench.STUDY.given, "only", ["mnist", "dsvdd", "full"])
    own = [str(cell) for cell in cells if bench.STUDY.is_asked_for(cell, cells)]
    assert own == [str(single.Cell("mnist", "dsvdd", "full", 0))]


def test_the_generator_of_a_distance_is_trained_with_its_median(monkeypatch):
    scores = np.array([1.0, 2.0, 4.0])
    detector = SimpleNamespace(calibration=SimpleNamespace(normal_scores=scores, threshold=3.0, temperature=1.0))
    cell = single.Cell("mnist", "dsvdd", "full", 0)
    np.testing.assert_allclose(single.anomaly_probability(cell, detector, scores), 1 - np.exp(-scores / 2.0))
    assert single.generator_settings(single.Cell("mnist", "hsc", "full", 1)).score == 4.0
    assert single.generator_settings(single.Cell("mnist", "bce", "full", 1)).score == 1.0


def test_the_picture_has_two_anomalies_of_each_class_and_both_concepts_below(known, monkeypatch, tmp_path):
    cell, of = single.Cell("mnist", "bce", "full", 0), known.anomalies(bench.EXPLAINED)
    monkeypatch.setattr(bench, "_path", lambda cell: tmp_path / "cell.json")
    monkeypatch.setattr(type(bench.STUDY), "place", tmp_path)
    np.savez(tmp_path / "cell.npz", made=np.stack([np.full_like(of, 10), np.full_like(of, 200)], axis=1))
    bench.write_picture("mnist", [cell])
    sheet = np.asarray(Image.open(tmp_path / "picture-mnist.png"))[::SCALE, ::SCALE, 0]
    assert sheet.shape == (3 * (28 + GAP) + GAP, 18 * (28 + GAP) + GAP)
    np.testing.assert_array_equal(sheet[GAP : GAP + 28, GAP : GAP + 28], of[0, 0])
    assert [sheet[GAP + line * (28 + GAP), GAP] for line in (1, 2)] == [10, 200]


def a_cell(normality):
    judge = {"normality": normality, "normality_each": [40.0, 70.0], "flipped": 0.9}
    return {
        "detector": {"auroc": 0.98, "phi_anomalies": 0.93, "phi_normals": 0.04, "flagged": 0.9},
        "explained": judge,
        "second": judge | {"normality": 80.0},
        "fid_n": 43.21,
        "kid_n": 40.0,
        "read_as_normal": 0.5,
        "read_as_normal_each": [0.4, 0.6],
        "l1": [0.1, 0.2],
        "normals_l1": [0.02, 0.03],
        "apart": 0.2,
        "cosine": 0.17,
        "concept_accuracy": 1.0,
        "perceptual": 0.1,
        "noise_pixels": 0.01,
        "noise_probability": 0.02,
    }


def test_the_page_says_what_fails_what_is_missing_and_which_rows_have_one_seed():
    cells = [single.Cell("mnist", "bce", "full", seed) for seed in (0, 1)] + [single.Cell("mnist", "hsc", "full", 0)]
    found = dict(zip(cells, ({"figures": a_cell(value)} for value in (51.0, 61.0, 90.0)), strict=True))
    found[single.Cell("mnist", "bce", "baselines", 0)] = {
        "figures": {"detector": {}, "sparse": a_cell(52.0), "nearest train normal": a_cell(70.0) | {"fid_n": 99.0}}
    }
    figures = {
        "settings": {"normal": {"mnist": "2"}, "second": single.SECOND, "full": {"concepts": 2}},
        "images": 1000,
        "baseline_images": 256,
        "judges": {"mnist": {"second_auroc": 0.95, "read_normals": 0.99, "read_anomalies": 0.01}},
        "rows": bench.rows_of(found),
        "baselines": bench._baselines(found),
        "published_mnist": bench.PUBLISHED,
        "missing": [str(single.Cell("mnist", "dsvdd", "full", 0))],
        "commits": ["abc"],
    }
    page = counterfactuals_single_section(json.loads(json.dumps(figures)))
    assert "| mnist bce | 0 | 0.980 | 0.93 / 0.04 | 90.0% | **51.0** (40 / 70) |" in page
    assert "56.0 ± 7.1" in page
    assert "One seed, so no spread is known: mnist hsc." in page
    assert "normality outside 50 ± 6: mnist bce seed 1, mnist hsc seed 0;" in page
    assert "read as normal below 95 %: mnist bce seed 0" in page
    assert "Not run: mnist dsvdd full seed 0." in page
    assert "| mnist bce | sparse | 52.0 | 90.0% |" in page
    assert "of 1 rows that have both: read as normal: nowhere; FID_N: mnist bce; KID_N: nowhere" in page
    assert "hsc normality 80.8 +- 5.3" in page
