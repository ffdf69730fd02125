import re

import pytest
import yaml

from tests.checkout import PROJECT
from xadflow.detectors import build_detector, detector_names
from xadflow.explainers import build_explainer, explainer_names

HOW_TO = PROJECT / "docs" / "how-to"


def blocks() -> list[tuple[str, dict[str, object]]]:
    found = []
    for page in sorted(HOW_TO.glob("*.md")):
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
            for name, detector in (yaml.safe_load(text).get("detectors") or {}).items():
                found.append((f"{page.stem}: {name}", detector))
    return found


@pytest.mark.parametrize(("where", "detector"), blocks())
def test_detectors_of_the_how_tos_can_be_built(where: str, detector: dict[str, object]) -> None:
    if detector["method"] in detector_names():  # `my-detector` is for the reader to write
        build_detector(detector["method"], **detector.get("settings", {}))


def trainings() -> list[tuple[str, str, dict[str, object]]]:
    found = []
    for page in sorted(HOW_TO.glob("*.md")):
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
            for name, given in ((yaml.safe_load(text).get("retrain") or {}).get("explainers") or {}).items():
                blocks = given if isinstance(given, list) else [given]
                found += [(f"{page.stem}: {name}", name, block.get("settings", {})) for block in blocks]
    return found


@pytest.mark.parametrize(("where", "name", "settings"), trainings())
def test_trainings_of_explainers_in_the_how_tos_can_be_built(
    where: str, name: str, settings: dict[str, object]
) -> None:
    assert name in explainer_names()
    explainer = build_explainer(name, **settings)
    for companion in settings.get("companions", ()):
        build_detector(companion["method"], **companion["settings"])
    assert (explainer.wanted is not None) == ("pairs" in settings)


def test_a_how_to_trains_on_pairs() -> None:
    assert any("pairs" in settings for _, _, settings in trainings())


def test_the_trunk_of_the_how_to_is_the_published_one() -> None:
    detector = dict(blocks())["train-against-outliers: fcdd_vgg"]
    settings = build_detector(detector["method"], **detector["settings"]).settings
    defaults = build_detector("fcdd_conv", network="torchvision:vgg11_bn").settings
    assert settings.trunk.cut == defaults.trunk.cut == 21
    assert settings.trunk.frozen == 15
