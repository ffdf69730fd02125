from pathlib import Path

import pytest
import yaml

from tests.checkout import PROJECT
from xadflow.errors import BadSettings, UnknownName
from xadflow.settings import Settings, load_settings

PARAMS = PROJECT / "params.yaml"


def changed(tmp_path: Path, change) -> Path:
    raw = yaml.safe_load(PARAMS.read_text())
    change(raw)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_the_projects_own_params_are_valid_and_frozen() -> None:
    settings = load_settings(PARAMS)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["gate"].update(min_auroq=0.5), ["gate.min_auroq", "0.5", "min_auroc"]),
        (lambda raw: raw["datasets"]["elpv"].update(sizepx=5), ["datasets.elpv.sizepx", "size_px"]),
        (lambda raw: raw.update(sead=3), ["sead", "seed"]),
        (lambda raw: raw["calibration"].update(false_alarm_rate=2), ["calibration.false_alarm_rate", "got 2"]),
        (lambda raw: raw["explain"].update(batch_size="many"), ["explain.batch_size", "integer", "got 'many'"]),
        (
            lambda raw: raw["retrain"].update(datasets=["elpw"]),
            ["retrain.datasets", "got 'elpw'", "did you mean 'elpv'"],
        ),
        (
            lambda raw: raw["explain"].update(explainers=["xyz"]),
            ["explain.explainers", "got 'xyz'", "reconstruction, sparse"],
        ),
        (
            lambda raw: raw["retrain"]["explainers"].update(divers=raw["retrain"]["explainers"]["diverse"]),
            ["retrain.explainers", "got 'divers'", "did you mean 'diverse'"],
        ),
        (
            lambda raw: raw["retrain"]["explainers"]["diverse"][0].update(detectors=["bcf"]),
            ["retrain.explainers.diverse.detectors", "got 'bcf'", "did you mean 'bce'"],
        ),
        (
            lambda raw: raw["demo"]["diverse"].update(detector="bcf"),
            ["demo.diverse.detector", "got 'bcf'", "did you mean 'bce'"],
        ),
        (
            lambda raw: raw["retrain"]["explainers"]["diverse"].append(
                {"datasets": ["elpv"], "detectors": ["fcdd"], "setting": {}}
            ),
            ["retrain.explainers.diverse.1.setting", "did you mean 'settings'"],
        ),
        (lambda raw: raw["gate"]["generator"].update(max_frechet_=1), ["gate.generator.max_frechet_", "max_frechet"]),
        (lambda raw: raw["catalogue"].append("ghost"), ["catalogue", "got ['ghost']"]),
        (lambda raw: raw["catalogue"].append("elpv"), ["catalogue", "got ['elpv']", "once"]),
        (lambda raw: raw["catalogue"].remove("elpv"), ["catalogue", "got ['elpv']"]),
        (lambda raw: raw.pop("retrain"), ["retrain is missing"]),
        (lambda raw: raw["datasets"].update({"../x": raw["datasets"]["elpv"]}), ["datasets"]),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(tmp_path: Path, change, words: list[str]) -> None:
    with pytest.raises(BadSettings) as caught:
        load_settings(changed(tmp_path, change))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_status == 2
    assert "xadflow doctor" in caught.value.next_step


def test_broken_yaml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: [1,\nb: 2")
    with pytest.raises(BadSettings, match="line 2"):
        load_settings(path)


def test_broken_yaml_does_not_quote_a_line_that_may_hold_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("notify: {webhook: 'https://host/token'\nseed: 1")
    with pytest.raises(BadSettings, match="line 2, column") as caught:
        load_settings(path)
    assert "token" not in str(caught.value) + repr(caught.value.__cause__)


def test_bytes_that_are_no_text_are_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"seed: \xff")
    with pytest.raises(BadSettings, match="not UTF-8"):
        load_settings(path)


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="git checkout"):
        load_settings(tmp_path / "params.yaml")


def test_an_unknown_data_set_is_answered_by_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'elpv'"):
        load_settings(PARAMS).dataset("elpw")


def test_every_key_of_the_settings_stands_in_params_yaml() -> None:
    def check(raw, settings, where: str) -> None:
        for name in type(settings).model_fields:
            assert name in raw, f"{where}{name}"
            value = getattr(settings, name)
            if hasattr(type(value), "model_fields"):
                check(raw[name], value, f"{where}{name}.")

    check(yaml.safe_load(PARAMS.read_text()), load_settings(PARAMS), "")


def test_a_night_runs_explainers_that_are_trained_for_its_detector_beside_those_of_every_night() -> None:
    settings = load_settings(PARAMS)
    every_night = ["heatmap", "transplant", "sparse", "reconstruction", "cues"]
    assert settings.nightly_explainers("elpv", "fcdd") == every_night
    assert settings.nightly_explainers("coloured-mnist", "bce") == [*every_night, "diverse"]
    assert settings.trained_explainers("coloured-mnist", "fcdd") == []


def test_an_explainer_has_its_own_settings_where_it_is_trained_for_a_detector_and_one_block_needs_no_list() -> None:
    raw = yaml.safe_load(PARAMS.read_text())
    raw["explainers"]["diverse"] = {"concepts": 2, "width": 16}
    one = {"datasets": ["elpv"], "detectors": ["fcdd"], "settings": {"width": 32, "size_px": 64}}
    raw["retrain"]["explainers"] = {"diverse": one}
    settings = Settings.model_validate(raw)
    assert settings.explainer_for("diverse", "elpv", "fcdd") == {"concepts": 2, "width": 32, "size_px": 64}
    for dataset, detector in (("elpv", "hsc"), ("coloured-mnist", "fcdd")):
        assert settings.explainer_for("diverse", dataset, detector) == {"concepts": 2, "width": 16}
    raw["retrain"]["explainers"] = {"diverse": [one, {**one, "detectors": ["fcdd", "hsc"], "settings": {}}]}
    settings = Settings.model_validate(raw)
    assert settings.explainer_for("diverse", "elpv", "fcdd")["width"] == 32
    assert settings.explainer_for("diverse", "elpv", "hsc")["width"] == 16
    assert settings.trained_explainers("elpv", "hsc") == ["diverse"]
