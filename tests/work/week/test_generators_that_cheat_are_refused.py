"""Each way in which a generator can please some measure without explaining anything breaks its own rule of the gate."""

from __future__ import annotations

import hashlib
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.explainers.conftest import patterned, with_defects
from xadflow.datasets.manifest import ManifestRow, Split, write_manifest
from xadflow.explainers.base import Counterfactual, Explanation
from xadflow.explainers.diverse.explainer import _between
from xadflow.images import as_float
from xadflow.metrics.explanation import l1_l2_changed
from xadflow.models.gate import APART, CHANGE_OF_NORMALS, FRECHET, LIKENESS, SHARE_NORMAL, judge_generator
from xadflow.settings import GeneratorGateSettings, Home
from xadflow.settings.blocks import DatasetSettings, ExplainSettings
from xadflow.work.week.generator_figures import generator_figures


class Painter:
    """An explainer that answers by a function of the pixels: uint8 [C,H,W] to one image for each concept."""

    def __init__(self, paint) -> None:
        self.paint = paint

    def explain(self, detector, images):
        told = []
        for original in (images * 255).round().to(torch.uint8).numpy():
            made = np.stack(self.paint(original))
            with torch.no_grad():
                scores = detector.score(as_float(torch.from_numpy(made))).image.double().numpy()
            normal = scores <= detector.calibration.threshold
            found = tuple(
                Counterfactual(k, made[k], float(scores[k]), 0.5, bool(normal[k]), *l1_l2_changed(original, made[k]))
                for k in range(len(made))
            )
            told.append(Explanation(counterfactuals=found, metrics=_between(original, made)))
        return told


def honest(original):
    """Stripes in the place of the square, and for the second concept also moved by half a period; normals stay."""
    stripes = np.median(original, axis=1, keepdims=True)
    odd = np.abs(original.astype(float) - stripes) > 40
    if odd.sum() < 12:
        return [original, original]
    noise = np.random.default_rng(int(original.sum())).normal(0, 0.03 * 255, original.shape)
    filled = np.where(odd, np.clip(stripes + noise, 0, 255), original).astype(np.uint8)
    return [filled, np.roll(filled, 4, axis=2)]


def collapsed(original):
    """Both concepts fill the square in alike."""
    return [honest(original)[0]] * 2


def unchanged(original):
    """What came in."""
    return [original, original]


def blank(original):
    """Grey all over, which the detector has nothing against."""
    return [np.full_like(original, 120), np.full_like(original, 130)]


def redrawn(original):
    """Good new images that have nothing to do with the one that came in."""
    drawn = patterned(2, int(original.sum()) % 1000).numpy()
    return [drawn[0], drawn[1]]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data set of stripes whose gate split holds 40 normals and 40 squares."""
    root = tmp_path_factory.mktemp("stripes")
    folder = root / "data" / "stripes"
    (folder / "images").mkdir(parents=True)
    rows = []
    squares = with_defects(patterned(40, 51), 52)[0]
    for label, images in ((0, patterned(40, 50)), (1, squares)):
        for number, image in enumerate(images.numpy()):
            path = folder / "images" / f"{label}-{number}.png"
            Image.fromarray(image[0]).save(path)
            rows.append(
                ManifestRow(
                    image_id=hashlib.sha256(path.read_bytes()).hexdigest(),
                    path=f"images/{path.name}",
                    split=str(Split.GATE),
                    label=label,
                    category="stripes",
                    defect="square" if label else None,
                    mask_path=None,
                    width=24,
                    height=24,
                    source="drawn",
                    licence="none",
                )
            )
    write_manifest(folder / "manifest.parquet", rows)
    return Home(root, root / "var")


@pytest.fixture(scope="module")
def project(home):
    settings = SimpleNamespace(
        gate=SimpleNamespace(generator=GeneratorGateSettings()),
        explain=ExplainSettings(datasets=(), explainers=(), batch_size=32),
        dataset=lambda name: DatasetSettings(source="drawn", size_px=24, channels=1),
    )
    return SimpleNamespace(home=home, settings=settings, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def measured(project, trained):
    """Figures of one painter."""

    @cache
    def measure(paint, beside=False):
        others = {"twin": trained} if beside else {}
        figures, concepts = generator_figures(project, "stripes", Painter(paint), trained, others)
        assert concepts == 2
        return figures

    return measure


def broken(figures):
    verdict = judge_generator(GeneratorGateSettings(), figures, 2)
    rules = {
        SHARE_NORMAL: "min_share_normal",
        LIKENESS: "max_likeness",
        APART: "min_apart",
        FRECHET: "max_frechet",
        CHANGE_OF_NORMALS: "max_change_of_normals",
    }
    found = {
        name for name, key in rules.items() if any(f"gate.generator.{key}" in reason for reason in verdict.reasons)
    }
    return set() if verdict.passed else found


def test_each_cheat_breaks_its_own_rule(measured) -> None:
    figures = {paint.__name__: measured(paint) for paint in (collapsed, unchanged, blank, redrawn)}
    assert {LIKENESS, APART} <= broken(figures["collapsed"])
    assert not {SHARE_NORMAL, FRECHET} & broken(figures["collapsed"])
    assert {SHARE_NORMAL, APART, FRECHET} <= broken(figures["unchanged"])
    assert FRECHET in broken(figures["blank"])
    assert SHARE_NORMAL not in broken(figures["blank"])
    assert CHANGE_OF_NORMALS in broken(figures["redrawn"])


def test_an_honest_one_breaks_none(measured) -> None:
    figures = measured(honest, beside=True)
    assert broken(figures) == set()
    assert figures[CHANGE_OF_NORMALS] < 0.3
    assert figures["anomalies"] > 30
    assert figures["share_normal_by.twin"] >= figures[SHARE_NORMAL]


def test_distance_and_stability_are_reported(measured) -> None:
    kept, other, still = measured(unchanged), measured(redrawn), measured(blank)
    assert kept["perceptual"] == 0.0
    assert other["perceptual"] > 0.02
    assert (still["noise_pixels"], still["noise_probability"]) == (0.0, 0.0)  # grey whatever comes in
    assert 0.008 < kept["noise_pixels"] < 0.0102  # the noise itself, .01, less what is clipped
    assert other["noise_pixels"] > 0.05
    assert 0.0 <= kept["noise_probability"] <= np.log(2)


class Masked(Painter):
    """A painter whose changes a mask keeps to what differs from the stripes; of a normal image that is next
    to nothing.
    """

    def __init__(self, paint) -> None:
        super().__init__(lambda original: [np.where(self._where(original), made, original) for made in paint(original)])
        self.free = Painter(paint)

    def anywhere(self):
        return self.free

    @staticmethod
    def _where(original):
        return np.abs(original.astype(float) - np.median(original, axis=1, keepdims=True)) > 40


def test_a_mask_does_not_hide_what_a_generator_does_to_normals(project, trained) -> None:
    figures, _ = generator_figures(project, "stripes", Masked(redrawn), trained, {})
    assert figures["change_of_normals_as_served"] < 0.1
    assert CHANGE_OF_NORMALS in broken(figures)
    honestly, _ = generator_figures(project, "stripes", Masked(honest), trained, {})
    assert CHANGE_OF_NORMALS not in broken(honestly)


def test_without_a_mask_the_share_is_the_one_that_is_served(measured) -> None:
    assert "change_of_normals_as_served" not in measured(honest)
