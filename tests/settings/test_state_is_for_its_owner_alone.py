"""var/ and DVC's site cache are entered by their owner only; the doctor says where that is not so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xadflow.cli.doctor.checks import privacy
from xadflow.settings.environment import Home, quiet_environment
from xadflow.settings.private import draw_once, keep_private, others_may, write_private

NAMES = ("PREFECT_HOME", "DVC_SITE_CACHE_DIR", "MPLCONFIGDIR", "XADFLOW_PROJECT", "PREFECT_API_URL")
LOGIN = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "MLFLOW_TRACKING_URI")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project without state, and an environment that is put back afterwards."""
    for name in (*NAMES, *LOGIN):
        monkeypatch.setenv(name, "x")  # so that monkeypatch knows what to put back
        monkeypatch.delenv(name)
    return Home(tmp_path, tmp_path / "var")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("before", [None, 0o755, 0o777, 0o711, 0o2775])
def test_state_and_site_cache_are_closed_by_whatever_starts_first(home: Home, before: int | None):
    site = home.state / "dvc-site"
    if before is not None:
        for folder in (home.state, site):
            folder.mkdir()
            folder.chmod(before)
    quiet_environment(home)
    assert [mode(path) & 0o777 for path in (home.state, site, home.state / "secrets")] == [0o700] * 3
    assert os.environ["DVC_SITE_CACHE_DIR"] == str(site)
    assert {one.level for one in privacy(home)} == {"ok"}


def test_dvc_puts_its_site_cache_there_and_opens_nothing(home: Home):
    quiet_environment(home)
    asks = "from dvc.repo import Repo; Repo.init(no_scm=True).data_index.close()"
    subprocess.run([sys.executable, "-c", asks], cwd=home.project, check=True, timeout=120, umask=0)
    site = home.state / "dvc-site"
    assert list((site / "repo").iterdir()), "DVC wrote somewhere else"
    assert mode(site) == 0o700  # DVC opens what it makes inside to everybody; nobody gets there


@pytest.mark.parametrize("name", ["", "dvc-site", "secrets"])
@pytest.mark.parametrize("open_to", [0o755, 0o770, 0o701])
def test_the_doctor_names_what_is_open(home: Home, name: str, open_to: int):
    quiet_environment(home)
    (home.state / name).chmod(open_to)
    (finding,) = privacy(home)
    shown = Path("var") / name
    assert (finding.level, finding.mend) == ("fail", f"chmod go= {shown}")


def test_the_doctor_names_a_shared_site_cache_that_was_set_by_hand(home: Home, tmp_path: Path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(shared))
    quiet_environment(home)
    assert mode(shared) == 0o777  # what the user set stays
    (finding,) = privacy(home)
    assert (finding.level, str(shared) in finding.said) == ("fail", True)


def test_a_folder_that_is_shared_by_its_nature_stays_as_it_is(tmp_path: Path):
    tmp_path.chmod(0o1777)
    keep_private(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_state_that_cannot_be_written_can_be_looked_at(home: Home, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (home.state / "prefect").mkdir(parents=True)
    monkeypatch.setattr("xadflow.settings.environment.login_of", refused)
    monkeypatch.setattr(Path, "chmod", refused)
    quiet_environment(home)
    assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_a_secret_is_never_there_half_or_open(tmp_path: Path):
    draw_once(tmp_path / "one", "first")
    draw_once(tmp_path / "one", "second")
    assert (tmp_path / "one").read_text() == "first"
    write_private(tmp_path / "one", "third")
    assert ((tmp_path / "one").read_text(), mode(tmp_path / "one")) == ("third", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert others_may(tmp_path / "one") is None
    (tmp_path / "one").chmod(0o644)
    assert others_may(tmp_path / "one") == "mode 0644"
