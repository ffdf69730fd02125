"""One login a state folder: drawn once, for its owner's eyes, and sent to the project's own servers only."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xadflow.cli.doctor.checks import privacy
from xadflow.errors import WrongUse
from xadflow.settings.environment import Home, quiet_environment, server_environment
from xadflow.settings.login import is_own_server, login_of, mlflow_login
from xadflow.settings.private import keep_private

NAMES = (
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A state folder, and an environment that is put back afterwards."""
    for name in (*NAMES, "PREFECT_HOME", "DVC_SITE_CACHE_DIR", "MPLCONFIGDIR", "XADFLOW_PROJECT"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch knows what to put back
        monkeypatch.delenv(name)
    return Home(tmp_path, tmp_path / "var")


def modes(*paths: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in paths]


def test_it_is_drawn_once_however_many_ask_at_once(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: login_of(tmp_path), range(32)))
    assert len(set(found)) == 1
    assert len(found[0].password) >= 32
    assert found[0].password not in repr(found[0])
    assert modes(tmp_path / "secrets", tmp_path / "secrets" / "login") == [0o700, 0o600]
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["login"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666])
def test_a_login_that_others_can_read_is_refused(tmp_path: Path, mode: int):
    login_of(tmp_path)
    (tmp_path / "secrets" / "login").chmod(mode)
    with pytest.raises(WrongUse, match="can be read by other users"):
        login_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"xadflow", b":", b"xadflow:short", b"\xff\xfe\n", b":0123456789abcdef0123"])
def test_a_file_without_a_login_is_said(tmp_path: Path, content: bytes):
    login_of(tmp_path)
    (tmp_path / "secrets" / "login").write_bytes(content)
    with pytest.raises(WrongUse, match="holds no login"):
        login_of(tmp_path)


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://127.0.0.1:4200", True),
        ("http://127.0.0.1:42001/api", False),
        ("http://127.0.0.1:4200.attacker.example/api", False),
        ("http://attacker.example/api", False),
        ("", False),
    ],
)
def test_the_login_goes_to_the_projects_own_server_only(home: Home, monkeypatch, address: str, own: bool):
    home.state.mkdir()
    (home.state / "server.json").write_text(json.dumps({"prefect": "http://127.0.0.1:4200", "mlflow": "http://a:1"}))
    assert is_own_server(home.state, address, "prefect") is own
    monkeypatch.setenv("PREFECT_API_URL", address or "http://other.example/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a:1" if own else "http://b:1")
    quiet_environment(home)
    assert (os.environ.get("PREFECT_API_AUTH_STRING") == login_of(home.state).pair) is own
    assert (os.environ.get("MLFLOW_TRACKING_PASSWORD") == login_of(home.state).password) is own


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"prefect": 3}', "no json"])
def test_no_server_is_our_own_where_none_runs(tmp_path: Path, text: str):
    (tmp_path / "server.json").write_text(text)
    assert not is_own_server(tmp_path, "http://127.0.0.1:4200/api", "prefect")


def test_a_runs_own_short_lived_server_asks_for_the_login_too(home: Home):
    quiet_environment(home)
    pair = login_of(home.state).pair
    assert os.environ["PREFECT_API_AUTH_STRING"] == os.environ["PREFECT_SERVER_API_AUTH_STRING"] == pair


def test_what_the_user_set_stays(home: Home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ann:secret")
    quiet_environment(home)
    assert os.environ["PREFECT_API_AUTH_STRING"] == "ann:secret"


def test_another_login_makes_mlflow_a_new_database_of_users(tmp_path: Path):
    first = mlflow_login(tmp_path)
    database = tmp_path / "mlflow-login.db"
    database.write_text("users")
    assert mlflow_login(tmp_path)["MLFLOW_AUTH_ADMIN_PASSWORD"] == first["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert database.exists()
    (tmp_path / "secrets" / "login").unlink()
    assert mlflow_login(tmp_path)["MLFLOW_AUTH_ADMIN_PASSWORD"] != first["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert not database.exists()
    assert first["MLFLOW_AUTH_ADMIN_PASSWORD"] not in Path(first["MLFLOW_AUTH_CONFIG_PATH"]).read_text()


def test_servers_let_their_own_origin_in_and_ask_for_the_login_and_a_token(tmp_path: Path):
    told = server_environment(Home(tmp_path, tmp_path), "http://127.0.0.1:4300")
    assert told["PREFECT_SERVER_API_AUTH_STRING"] == login_of(tmp_path).pair
    assert told["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4300"
    assert told["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750, 0o701])
def test_a_state_folder_is_closed_to_others_and_the_doctor_says_when_it_is_not(home: Home, mode: int):
    home.state.mkdir()
    home.state.chmod(mode)
    (finding,) = privacy(home)
    assert (finding.level, finding.mend) == ("fail", "chmod go= var")
    keep_private(home.state)
    assert modes(home.state) == [0o700]
    (finding,) = privacy(home)
    assert finding.level == "ok"
