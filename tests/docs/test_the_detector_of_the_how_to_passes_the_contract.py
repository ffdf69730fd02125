"""docs/how-to/add-a-detector.md followed to the letter: its detector keeps the contract, a careless one does not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from tests.checkout import PROJECT
from xadflow.detectors.base import Traits, traits

PAGE = (PROJECT / "docs" / "how-to" / "add-a-detector.md").read_text(encoding="utf-8")
CARELESS = """
import torch

from my_package.detector import MyDetector
from xadflow.detectors.base import Scores


class Careless(MyDetector):
    method = "careless"

    def checked(self, images):
        return images.float()

    def score(self, images):
        found = super().score(images)
        return Scores(found.image.clamp(max=1.0) + images.mean(), found.map.double())

    def save(self, folder):
        super().save(folder)
        torch.save(self.mean, folder / "mean.pt")
"""
FAILED = {
    "test_a_killed_and_resumed_training_equals_an_uninterrupted_one": False,
    "test_an_image_gets_the_same_scores_again_and_in_any_company": True,
    "test_images_that_it_was_not_fitted_on_are_refused": True,
    "test_scores_are_raw_finite_float32_one_an_image_and_a_map_of_its_size": True,
    "test_what_is_saved_comes_back_bit_for_bit_without_any_pickle": True,
}
"""Tests of the contract, and whether the careless detector fails them."""


def block(kind: str) -> str:
    """The first block of a kind on the page."""
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, flags=re.S)
    assert found is not None
    return textwrap.dedent(found[1])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the tests that passed and failed, each with the detector, by the command of the page."""
    site = tmp_path_factory.mktemp("site")
    (site / "my_package").mkdir()
    (site / "my_package" / "detector.py").write_text(block("python"), encoding="utf-8")
    (site / "my_package" / "careless.py").write_text(CARELESS, encoding="utf-8")
    (site / "my_package-1.dist-info").mkdir()
    (site / "my_package-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    points = block("toml").replace("project.entry-points.", "").replace('"', "")
    (site / "my_package-1.dist-info" / "entry_points.txt").write_text(
        f"{points}careless = my_package.careless:Careless\n"
    )
    command = re.search(r"\$ \.venv/bin/python (-m pytest .*)", PAGE)
    assert command is not None
    words = [word if word != "my-detector" else "my-detector or careless" for word in shlex.split(command[1])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    told = subprocess.run(
        [sys.executable, *words, "-rA", "-p", "no:cacheprovider", "--basetemp", str(site / "tmp")],
        cwd=PROJECT,
        env={**environment, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    ).stdout
    lines = re.findall(r"^(PASSED|FAILED|ERROR) \S+?::(.*?)(?: - .*)?$", told, flags=re.M)
    found = {kind: {test for how, test in lines if how == kind} for kind in ("PASSED", "FAILED", "ERROR")}
    assert found["PASSED"], told
    return found


def test_the_detector_of_the_page_passes_every_test(outcome: dict[str, set[str]]) -> None:
    assert not {test for test in outcome["FAILED"] | outcome["ERROR"] if "my-detector" in test}
    assert len({test for test in outcome["PASSED"] if "my-detector" in test}) >= 15


@pytest.mark.parametrize(("test", "fails"), FAILED.items())
def test_a_careless_one_fails_what_it_breaks(test: str, fails: bool, outcome: dict[str, set[str]]) -> None:
    assert any(one.startswith(test) and "careless" in one for one in outcome["FAILED"]) == fails


def test_a_detector_that_says_nothing_of_itself_is_one_with_a_gradient_that_may_learn_from_anything() -> None:
    class Silent:
        pass

    assert traits(Silent) == traits(Silent()) == Traits("Silent")  # type: ignore[arg-type]
    assert (Traits("").differentiable, Traits("").learns_from_outliers, Traits("").stages) == (True, True, ())
