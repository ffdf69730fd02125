from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from xadflow.commands import doctor_checks
from xadflow.commands.doctor import doctor

PROJECT = Path(__file__).parents[2]
MISSING = {"mlflow", "dvc remote", "schedules", "table scores", "table explanations", "data elpv", "champion"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with settings and nothing else."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def health() -> Iterator[str]:
    """A server whose /api/health says true."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true" if self.path == "/api/health" else b"false")

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def diagnose() -> tuple[int, dict[str, dict[str, str]]]:
    done = CliRunner().invoke(doctor, ["--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, {one["what"]: one for one in json.loads(done.output)["findings"]}


def test_an_empty_project_lacks_much_but_fails_nothing_and_stays_empty(project: Path) -> None:
    before = sorted(project.rglob("*"))
    status, found = diagnose()
    assert status == 0
    lacking = {name for name, one in found.items() if one["level"] == "warn"}
    assert lacking >= MISSING
    assert all(found[name]["mend"] for name in lacking)
    assert found["data elpv"]["mend"] == "dvc repro validate@elpv"
    assert found["champion"]["mend"] == "xadflow retrain --dataset elpv"
    assert sorted(project.rglob("*")) == before


@pytest.mark.usefixtures("project")
def test_the_text_shows_each_mending_command() -> None:
    done = CliRunner().invoke(doctor)
    assert done.exit_code == 0
    assert "-> xadflow retrain --dataset elpv" in done.output


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("name", "broken", "harm"), [
    ("fastapi", "0.151.0", "does not start"), ("sqlalchemy", "2.1.9", "no Prefect schedule"),
])  # fmt: skip
def test_a_version_that_is_known_to_break_fails(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: str, harm: str
) -> None:
    monkeypatch.setattr(doctor_checks, "version", lambda asked: broken if asked == name else "0.0.1")
    status, found = diagnose()
    assert status == 1
    assert found[name]["level"] == "fail"
    assert harm in found[name]["said"]
    assert found[name]["mend"].startswith(f"pip install '{name}<")
    assert found["packages"]["level"] == "warn"  # the others are only unmeasured


def test_settings_that_cannot_be_read_fail_and_hide_nothing_else(project: Path) -> None:
    (project / "params.yaml").write_text("sed: 1\n")
    status, found = diagnose()
    assert status == 1
    assert found["params.yaml"]["level"] == "fail"
    assert "packages" in found


def test_a_database_that_is_none_fails(project: Path) -> None:
    (project / "var").mkdir()
    (project / "var" / "mlflow.db").write_text("not a database, but long enough to be opened as one" * 10)
    status, found = diagnose()
    assert status == 1
    assert found["mlflow"]["level"] == "fail"
    assert "mlflow.db" in found["mlflow"]["mend"]


@pytest.mark.usefixtures("project")
def test_a_prefect_server_that_does_not_answer_fails_and_a_healthy_one_is_ok(
    monkeypatch: pytest.MonkeyPatch, health: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", health)
    assert diagnose()[1]["prefect"]["level"] == "ok"
    monkeypatch.setenv("PREFECT_API_URL", health.replace("/api", "/nowhere"))
    assert diagnose()[1]["prefect"]["level"] == "fail"
    monkeypatch.setenv("PREFECT_API_URL", "http://ann:secret@127.0.0.1:1/api")
    status, found = diagnose()
    assert status == 1
    assert "make server" in found["prefect"]["mend"]
    assert "secret" not in json.dumps(found)


def test_what_is_there_is_seen(project: Path) -> None:
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    remote = here\n['remote \"here\"']\n    url = ../store\n")
    (project / "prefect.yaml").write_text("deployments:\n- name: nightly\n  schedules:\n  - cron: '30 3 * * *'\n")
    log = project / "var" / "tables" / "scores" / "_delta_log"
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").touch()
    found = diagnose()[1]
    assert found["dvc remote"]["said"] == "here"
    assert found["schedules"]["said"] == "nightly 30 3 * * *"
    assert found["table scores"]["level"] == "ok"
    assert found["table explanations"]["level"] == "warn"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("content", "level"), [(b"weights", "ok"), (b"weightz", "fail")])
def test_a_weight_file_that_changed_since_its_package_was_built_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, level: str
) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    recorded = urlsafe_b64encode(hashlib.sha256(b"weights").digest()).rstrip(b"=").decode()
    entry = SimpleNamespace(suffix=".pth", name="net.pth", hash=SimpleNamespace(mode="sha256", value=recorded),
                            locate=lambda: path)  # fmt: skip
    monkeypatch.setattr(doctor_checks, "distribution", lambda _: SimpleNamespace(files=[entry, PurePosixPath("a.py")]))
    status, found = diagnose()
    assert found["weights"]["level"] == level
    assert status == (level == "fail")


@pytest.mark.usefixtures("project")
def test_looking_at_an_empty_project_imports_no_heavy_package() -> None:
    code = (
        "import sys; from xadflow.commands.doctor import examine; from xadflow.settings import Home; examine(Home.find());"
        "print(sorted({'torch', 'prefect', 'mlflow', 'pandas', 'dvc', 'great_expectations'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
