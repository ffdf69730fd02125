"""Figures, intervals and page of the product's half of bench-counterfactuals-elpv, on drawn images: ELPV is
not read.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.counterfactuals_elpv_kit import product_judging
from benchmarks.counterfactuals_elpv_kit.product_judging import change_of_normals, frechet_interval, share_interval
from benchmarks.counterfactuals_elpv_product import flagged
from benchmarks.counterfactuals_elpv_product_table import counterfactuals_elpv_product_section, verdict
from benchmarks.kit.judging import union, worst_pairs
from tests.benchmarks.test_twins_are_compared_on_the_same_defects import ByBrightness, grey


def test_explained_are_the_first_flagged_defects() -> None:
    found = flagged(ByBrightness(0.4), grey(200, 10, 150, 220, 180), 3)
    assert found[:, 0, 0, 0].tolist() == [200, 150, 220]


def test_alternatives_take_turns_in_a_distance() -> None:
    made = np.stack([grey(1, 2), grey(3, 4), grey(5, 6)])
    assert union(made)[:, 0, 0, 0].tolist() == [1, 4, 5]


def test_likeness_and_distance_are_those_of_the_worst_pair_of_each_image() -> None:
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 255, (3, 1, 8, 8)).astype(np.uint8)
    made = rng.integers(0, 255, (3, 3, 1, 8, 8)).astype(np.uint8)
    likeness, apart = [], []
    for image, alternatives in zip(originals, made, strict=True):
        edits = [(one.astype(float) - image).ravel() for one in alternatives]
        pairs = [(0, 1), (0, 2), (1, 2)]
        likeness.append(
            max(edits[a] @ edits[b] / np.linalg.norm(edits[a]) / np.linalg.norm(edits[b]) for a, b in pairs)
        )
        apart.append(min(np.abs(edits[a] - edits[b]).mean() / 255 for a, b in pairs))
    found = worst_pairs(originals, made)
    assert found["likeness"] == pytest.approx(np.mean(likeness))
    assert found["apart"] == pytest.approx(np.mean(apart))
    assert worst_pairs(originals, made[:, :1]) == {}


def test_normals_change_by_a_share_of_what_defects_do() -> None:
    normals, defects = grey(100, 110), grey(30, 40)
    kept, made = np.stack([grey(101, 99), grey(110, 112)]), np.stack([grey(40, 50), grey(50, 60)])
    assert change_of_normals(kept, normals, made, defects)["change_of_normals"] == pytest.approx(1.0 / 15.0)


def test_transfer_is_asked_of_defects_that_the_judge_flags_and_seeds_may_have_fewer() -> None:
    judge = ByBrightness(0.4)
    first = (grey(200, 50, 220), np.stack([grey(20, 30), grey(20, 20), grey(20, 240)]))
    second = (grey(210, 230), np.stack([grey(240, 250), grey(30, 30)]))
    found = share_interval(judge, [first, second])
    assert found["each_seed"] == [
        pytest.approx(0.75),
        pytest.approx(0.5),
    ]  # the second of the first seed was normal before
    assert found["value"] == pytest.approx(0.625)
    assert 0.0 <= found["low"] <= found["value"] <= found["high"] <= 1.0


def test_the_interval_of_a_distance_has_the_spread_of_repeated_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        product_judging, "features_of", lambda images: images.reshape(len(images), -1)[:, :2].astype(float)
    )
    rng = np.random.default_rng(1)

    def drawn(mean: float, count: int) -> np.ndarray:
        return np.round(rng.normal(mean, 12.0, (count, 1, 1, 2))).clip(0, 255).astype(np.uint8)

    cells = SimpleNamespace(test=drawn(100.0, 400), labels=np.zeros(400, dtype=int))
    values, widths = [], []
    for _ in range(60):
        found = frechet_interval([(drawn(160.0, 80), drawn(130.0, 80)[:, None])], cells, halves=60)
        values.append(found["value"])
        widths.append((found["high"] - found["low"]) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.35)


def figures(share: float = 0.9) -> dict[str, object]:
    of = {
        "share_normal": [share, 0.95],
        "transfer": 0.5,
        "drop": 2.0,
        "judge_flagged": 90,
        "frechet": 70.0,
        "kid": 60.0,
        "changed": 0.2,
        "likeness": 0.4,
        "apart": 0.02,
        "change_of_normals": 0.1,
    }
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    generator = {**of, "change_of_normals_anywhere": 0.3}
    return {
        "images": {"0": 200, "1": 199},
        "judge": {"auroc": 0.9, "normals": 400},
        "trainings": {"0": {"cpu_seconds": 300.0}},
        "settings": {
            "generator": {},
            "gate": {
                "min_share_normal": 0.8,
                "max_likeness": 0.5,
                "min_apart": 0.005,
                "max_frechet": 80,
                "max_change_of_normals": 0.6,
            },
        },
        "rows": {"diverse": {"0": generator, "1": generator}, "nearest normal": {"0": of, "1": of}},
        "intervals": {
            name: {"transfer": interval, "frechet": {"value": 70.0, "low": 60.0, "high": 80.0}}
            for name in ("diverse", "nearest normal")
        },
    }


def test_the_page_has_a_row_an_explainer_and_says_what_the_gate_would() -> None:
    page = counterfactuals_elpv_product_section(figures())
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert "90% / 95% | 50.0% [40.0%, 60.0%] | 2.00 | 70 [60, 80]" in rows[1]
    assert rows[1].endswith("| 0.10 (0.30) |")
    assert rows[2].endswith("| 0.10 |")
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1
    assert "5.0 minutes of one processor" in page
    assert "keeps every rule" in page


def test_what_is_missed_is_said_by_how_much() -> None:
    assert "normal, worst concept is 0.7, at least 0.8" in verdict(figures(0.7))
