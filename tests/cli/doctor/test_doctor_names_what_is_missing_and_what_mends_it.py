from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tests.checkout import PROJECT
from xadflow.cli.doctor import checks as doctor_checks
from xadflow.cli.doctor import models as doctor_models
from xadflow.cli.doctor import prefect as doctor_prefect
from xadflow.cli.doctor.command import doctor
from xadflow.cli.printing import printable
from xadflow.datasets.manifest import ManifestRow, write_manifest, write_quarantine
from xadflow.errors import BadWeights
from xadflow.models.versions import ModelRef
from xadflow.project import Project

MISSING = {"mlflow", "dvc remote", "schedules", "table scores", "table explanations", "data elpv", "champion", "judge"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with settings and nothing else."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    for name in (
        "XADFLOW_HOME",
        "MLFLOW_TRACKING_URI",
        "PREFECT_API_URL",
        "XADFLOW_WEBHOOK",
        "PREFECT_API_KEY",
        "PREFECT_API_AUTH_STRING",
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextmanager
def answering(status_of: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that says true below /api/health and false elsewhere; `status_of` sends the status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status_of(self)
            self.end_headers()
            self.wfile.write(b"true" if self.path == "/api/health" else b"false")

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def health() -> Iterator[str]:
    """A server whose /api/health says true."""
    with answering(lambda handler: handler.send_response(200)) as address:
        yield address


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
    assert found["champion"]["mend"] == found["judge"]["mend"] == "xadflow retrain --dataset elpv"
    assert "xad.elpv.judge is not registered" in found["judge"]["said"]
    assert sorted(project.rglob("*")) == before


@pytest.mark.usefixtures("project")
def test_the_text_shows_each_mending_command() -> None:
    done = CliRunner().invoke(doctor)
    assert done.exit_code == 0
    assert "-> xadflow retrain --dataset elpv" in done.output


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("name", "broken", "harm"),
    [("fastapi", "0.151.0", "does not start"), ("sqlalchemy", "2.1.9", "no Prefect schedule")],
)
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
    found = diagnose()[1]
    assert found["dvc remote"]["said"] == "here"
    assert found["schedules"]["said"].startswith("nightly 30 3 * * * (UTC; next 2")


@pytest.mark.parametrize(
    ("cron", "zone", "expected"),
    [
        ("30 3 * * *", "UTC", "2026-12-01 04:30:00 +0100"),
        ("0 2 * * 0", "UTC", "2026-12-06 03:00:00 +0100"),  # a Sunday
        ("0 2 * * 7", "UTC", "2026-12-06 03:00:00 +0100"),
        ("0 2 * * 2", "UTC", "2026-12-08 03:00:00 +0100"),  # today, but two hours have gone by
        ("15 22 * * *", "America/New_York", "2026-12-01 04:15:00 +0100"),
        ("*/5 * * * *", "UTC", None),
        ("0 2 1 * *", "UTC", None),
        ("0 2 * * 1-5", "UTC", None),
        ("0 24 * * *", "UTC", None),
        ("0 2 * * *", "Mars/Olympus", None),
        ("hourly", "UTC", None),
    ],
)
def test_a_schedule_is_told_with_its_zone_and_by_this_machines_clock(
    monkeypatch: pytest.MonkeyPatch, cron: str, zone: str, expected: str | None
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        said = doctor_prefect._told("nightly", cron, zone, datetime(2026, 12, 1, 3, 0, tzinfo=UTC))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert said == f"nightly {cron} ({zone}{f'; next {expected}' if expected else ''})"


def test_each_data_set_is_shown_with_what_is_in_quarantine(project: Path) -> None:
    folder = project / "data" / "elpv"
    row = ManifestRow("0" * 64, "images/a.png", "train", 0, "cell", None, None, 8, 8, "made up", "not stated")
    write_manifest(folder / "manifest.parquet", [row])
    refused = [{"path": f"{n}.png", "reason": "empty" if n else "link", "detail": "x"} for n in range(3)]
    write_quarantine(folder / "quarantine.parquet", refused)
    found = diagnose()[1]["data elpv"]
    assert found["said"] == "1 images, 3 files in quarantine: 2 empty, 1 link"
    assert found["mend"] == "xadflow data manifest elpv lists them"
    (folder / "quarantine.parquet").write_bytes(b"damaged")
    assert diagnose()[1]["data elpv"]["level"] == "fail"


@pytest.mark.parametrize(
    ("place", "value", "level"),
    [
        ("params", "null", "ok"),
        ("params", "https://hooks.example.org/T0KEN", "ok"),
        ("environment", "https://hooks.example.org/T0KEN", "ok"),
        ("environment", "T0KEN", "fail"),
    ],
)
def test_the_webhook_is_there_or_not_and_its_address_is_not_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str, value: str, level: str
) -> None:
    params = project / "params.yaml"
    if place == "params":
        params.write_text(params.read_text().replace("webhook: null", f"webhook: {value}"))
    else:
        monkeypatch.setenv("XADFLOW_WEBHOOK", value)
    found = diagnose()[1]
    assert found["webhook"]["level"] == level
    assert ("hooks.example.org" in found["webhook"]["said"]) == ("hooks" in value)
    assert bool(found["webhook"]["mend"]) == (value == "null" or level == "fail")
    assert "T0KEN" not in json.dumps(found)


@pytest.mark.parametrize(("status", "mend"), [(401, "PREFECT_API_AUTH_STRING"), (500, "prefect-server.log")])
@pytest.mark.usefixtures("project")
def test_a_server_that_refuses_us_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, status: int, mend: str) -> None:
    with answering(lambda handler: handler.send_response(status)) as address:
        monkeypatch.setenv("PREFECT_API_URL", address)
        found = diagnose()[1]["prefect"]
    assert found["level"] == "fail"
    assert mend in found["mend"]


@pytest.mark.parametrize(("status", "times", "level"), [(503, 2, "ok"), (429, 1, "ok"), (503, 99, "fail")])
@pytest.mark.usefixtures("project")
def test_a_server_that_is_busy_is_asked_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, status: int, times: int, level: str
) -> None:
    monkeypatch.setattr(doctor_prefect, "_PAUSES_S", (0.0, 0.0))
    asked = []

    def busy(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(status if len(asked) <= times else 200)

    with answering(busy) as address:
        monkeypatch.setenv("PREFECT_API_URL", address)
        found = diagnose()[1]["prefect"]
    assert found["level"] == level
    assert level == "ok" or f"status {status}" in found["said"]
    assert len(asked) >= 3 or times == 1


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("name", "value", "header"),
    [
        ("PREFECT_API_AUTH_STRING", "ann:secret", f"Basic {b64encode(b'ann:secret').decode()}"),
        ("PREFECT_API_KEY", "secret", "Bearer secret"),
    ],
)
def test_a_guarded_server_is_asked_with_the_credentials_and_they_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, header: str
) -> None:
    def guarded(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200 if handler.headers.get("Authorization") == header else 401)

    with answering(guarded) as address:
        monkeypatch.setenv("PREFECT_API_URL", address)
        monkeypatch.setenv(name, value)
        found = diagnose()[1]
    assert found["prefect"]["level"] == "ok"
    assert "secret" not in json.dumps(found)


def test_the_limits_looked_at_are_those_that_tasks_take() -> None:
    from tasks import slots

    assert set(doctor_prefect.LIMITS) == {slots.GPU, slots.DVC}


@pytest.mark.usefixtures("project")
def test_the_text_never_moves_the_cursor_of_a_terminal() -> None:
    assert printable("a\x1b[2Jb\udce9.png") == "a\\x1b[2Jb\\udce9.png"
    assert printable("kratzer ä.png") == "kratzer ä.png"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("content", "level"), [(b"weights", "ok"), (b"weightz", "fail")])
def test_a_weight_file_that_changed_since_its_package_was_built_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, level: str
) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    recorded = urlsafe_b64encode(hashlib.sha256(b"weights").digest()).rstrip(b"=").decode()
    entry = SimpleNamespace(
        suffix=".pth", name="net.pth", hash=SimpleNamespace(mode="sha256", value=recorded), locate=lambda: path
    )
    monkeypatch.setattr(doctor_checks, "distribution", lambda _: SimpleNamespace(files=[entry, PurePosixPath("a.py")]))
    status, found = diagnose()
    assert found["weights"]["level"] == level
    assert status == (level == "fail")


def test_the_judge_of_each_data_set_is_named_with_its_version_or_why_there_is_none(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project / "params.yaml"
    text = params.read_text().replace(
        "retrain: {datasets: [elpv]", "retrain: {datasets: [elpv, textures-brick, mosaic]"
    )
    params.write_text(text.replace("options: {texture: brick}}", "judge: false, options: {texture: brick}}"))

    def files(ref: ModelRef) -> Path:
        if ref.version == 5:
            raise BadWeights(
                "a file of xad.elpv.judge version 5 is not the one that was registered", seen="x", next_step="y"
            )
        return project

    def judges(version: int) -> list[doctor_checks.Finding]:
        registry = SimpleNamespace(alias=lambda name, alias: ModelRef(name, version, "run"), detector_folder=files)
        monkeypatch.setattr(doctor_models, "_registry", lambda project: registry)
        return list(doctor_models.judges(Project.open()))

    elpv, brick, mosaic = judges(4)
    assert (elpv.level, elpv.said, elpv.mend) == ("ok", "xad.elpv.judge version 4", "")
    assert (brick.level, brick.mend) == ("ok", "")
    assert "textures-brick has none: datasets.textures-brick.judge is switched off" in brick.said
    assert "mosaic has none: mosaic holds scenes" in mosaic.said
    broken = judges(5)[0]
    assert (broken.level, broken.mend) == ("fail", "xadflow retrain --dataset elpv")


@pytest.mark.usefixtures("project")
def test_looking_at_an_empty_project_imports_no_heavy_package() -> None:
    code = (
        "import sys; from xadflow.cli.doctor.command import examine; from xadflow.project import Project; "
        "examine(Project.open());"
        "print(sorted({'torch', 'prefect', 'mlflow', 'pandas', 'dvc', 'great_expectations'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
