"""Wrong settings of an explainer stop `retrain`, `explain` and `demo` at once, by place in params.yaml, key
and value.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from flows import commands, demo, running
from tests.checkout import PROJECT
from xadflow.errors import BadSettings
from xadflow.explainers import base
from xadflow.explainers.declared import check_explainers
from xadflow.settings import load_settings

PARAMS = PROJECT / "params.yaml"


@pytest.fixture
def checked(tmp_path: Path):
    """Check params.yaml with a change."""

    def check(change) -> None:
        raw = yaml.safe_load(PARAMS.read_text())
        change(raw)
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(raw))
        check_explainers(load_settings(path))

    return check


def block(**changes):
    """retrain.explainers.diverse as one block with changes."""
    return lambda raw: raw["retrain"]["explainers"].update(
        diverse={"datasets": ["coloured-mnist"], "detectors": ["bce"], **changes}
    )


def test_the_projects_own_are_in_order(checked) -> None:
    checked(lambda raw: None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda raw: raw["explainers"]["transplant"].update(rungs=[2]),
            [
                "explainers.transplant in params.yaml: setting rungs.0 of explainer transplant",
                "less than or equal to 1",
                "got 2",
            ],
        ),
        (
            lambda raw: raw["explainers"]["transplant"].update(rungs=[0.5, 0.25]),
            ["setting rungs of explainer transplant: the rungs must grow", "got [0.5, 0.25]"],
        ),
        (
            lambda raw: raw["explainers"]["transplant"].update(alternativs=5),
            ["explainers.transplant", "no setting 'alternativs'", "got 5", "did you mean 'alternatives'"],
        ),
        (lambda raw: raw["explainers"]["sparse"].update(p=0.5), ["explainers.sparse", "setting p of", "got 0.5"]),
        (
            lambda raw: raw["explainers"].update(sparze={}),
            ["explainers.sparze", "no explainer of that name", "'sparse'"],
        ),
        (
            block(settings={"concepts_": 3}),
            [
                "retrain.explainers.diverse.settings in params.yaml",
                "no setting 'concepts_'",
                "got 3",
                "did you mean 'concepts'",
            ],
        ),
        (
            lambda raw: raw["retrain"]["explainers"]["diverse"].append(
                {"datasets": ["elpv"], "detectors": ["fcdd"], "settings": {"concepts": 0}}
            ),
            ["retrain.explainers.diverse.1.settings", "setting concepts", "got 0"],
        ),
        (
            lambda raw: raw["retrain"]["explainers"].update(sparse={"datasets": ["elpv"], "detectors": ["fcdd"]}),
            ["retrain.explainers.sparse in params.yaml: this explainer is not trained", "explain.explainers"],
        ),
    ],
)
def test_what_an_explainer_does_not_take_is_said_with_its_place_key_and_value(
    checked, change, words: list[str]
) -> None:
    with pytest.raises(BadSettings) as caught:
        checked(change)
    for word in words:
        assert word in str(caught.value)


class Foreign:
    """A third party's explainer that knows neither our settings nor our errors, and is trained for detectors that
    score.
    """

    requires = SimpleNamespace

    def __init__(self, size: int = 3) -> None:
        self.size = size

    def fit(self) -> None:
        """It is trained."""

    def save(self) -> None:
        """And saved."""


@pytest.mark.parametrize("given", [{"sise": 2}, None])
def test_an_explainer_of_somebody_else_is_asked_too(checked, monkeypatch: pytest.MonkeyPatch, given) -> None:
    def load() -> type[Foreign]:
        if given is None:
            raise ImportError("No module named 'theirs'")
        return Foreign

    known = {**base._explainers(), "foreign": SimpleNamespace(load=load)}
    monkeypatch.setattr(base, "_explainers", lambda: known)
    with pytest.raises(BadSettings, match=r"explainers.foreign in params.yaml: .*(sise|No module named 'theirs')"):
        checked(lambda raw: raw["explainers"].update(foreign=given or {}))


@pytest.mark.parametrize("command", [commands.retrain, commands.explain, demo.demo])
def test_no_command_starts_prefect_before_it_has_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    raw = yaml.safe_load(PARAMS.read_text())
    raw["explainers"]["transplant"]["rungs"] = [2]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(running, "_started", lambda times: pytest.fail("Prefect was started"))
    done = CliRunner().invoke(command)
    assert isinstance(done.exception, BadSettings), done.output
    assert done.exception.exit_status == 2


def test_help_and_loading_settings_bring_no_torch_in() -> None:
    code = (
        "import sys; from pathlib import Path; from xadflow.cli.main import main; "
        "from xadflow.settings import load_settings\n"
        f"load_settings(Path({str(PARAMS)!r}))\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(1 if {'torch', 'prefect'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
