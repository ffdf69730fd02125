"""The failure hook with a real HTTP server: called by itself, and by flows that really fail and really crash."""

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from situations import no_champion
from webhook_server import Webhook, listening

from flows.explain import explain
from flows.retrain import retrain
from tasks.publishing import notify_alarms, notify_failure
from tests.checkout import PROJECT
from xadflow.errors import BadSettings
from xadflow.evidence.alarms import Alarm, Alarms
from xadflow.settings import Home, load_settings, webhook_address

TOKEN = "T0ken-that-nobody-may-see"
FLOW, RUN = SimpleNamespace(name="explain"), SimpleNamespace(name="calm-otter", id="0-1-2", deployment_id=None)
STATE = SimpleNamespace(name="Failed", message="Flow run encountered an exception: NoChampion: no version")


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with listening() as one:
        yield one


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    monkeypatch.delenv("XADFLOW_WEBHOOK", raising=False)
    return tmp_path


def configure(project: Path, webhook: object) -> None:
    raw = yaml.safe_load((project / "params.yaml").read_text())
    raw["notify"] = {"webhook": webhook}
    (project / "params.yaml").write_text(yaml.safe_dump(raw))


def notified(caplog: pytest.LogCaptureFixture, hook: Callable[..., None] = notify_failure) -> list[str]:
    caplog.clear()
    log = logging.getLogger("prefect.flow_runs")  # Prefect cuts it off from the root when it sets its logging up
    log.addHandler(caplog.handler)
    before, log.level, log.propagate = log.level, logging.DEBUG, False
    try:
        hook(FLOW, RUN, STATE)
    finally:
        log.removeHandler(caplog.handler)
        log.setLevel(before)
        log.propagate = True
    assert TOKEN not in caplog.text
    return [record.getMessage() for record in caplog.records]


def test_both_flows_report_failures_and_crashes() -> None:
    for flow in (explain, retrain):
        assert flow.on_failure_hooks[0] == flow.on_crashed_hooks[0] == notify_failure


def test_a_night_reports_alarms_of_the_ledger_however_it_ends() -> None:
    for hooks in (explain.on_completion_hooks, explain.on_failure_hooks, explain.on_crashed_hooks):
        assert hooks[-1] == notify_alarms


ALARM = Alarm(4, 1, "scores", 2, "d" * 64, "completed, and nothing proves who made it")


def test_open_alarms_reach_the_webhook_until_somebody_vouches(project, hook, caplog) -> None:
    configure(project, f"{hook.address}/200/{TOKEN}")
    assert notified(caplog, notify_alarms) == []
    alarms = Alarms(project / "var" / "ledger")
    alarms.sound(ALARM)
    (said,) = notified(caplog, notify_alarms)
    assert said.startswith("ALARM: line 4 of the ledger, commit 2 of scores, was completed, and nothing proves")
    assert "xadflow audit accept --yes" in said
    ((_, path, content),) = hook.got
    assert path == f"/200/{TOKEN}"
    assert content == {
        "text": f"explain (calm-otter) {said}",
        "flow": "explain",
        "run": "calm-otter",
        "run_id": "0-1-2",
        "state": "Alarm",
    }
    notified(caplog, notify_alarms)
    assert len(hook.got) == 2
    assert alarms.vouch() == 1
    notified(caplog, notify_alarms)
    assert len(hook.got) == 2


def test_an_alarm_that_cannot_be_sent_is_logged_without_the_address(project, hook, caplog) -> None:
    configure(project, f"{hook.address}/410/{TOKEN}")
    Alarms(project / "var" / "ledger").sound(ALARM)
    assert notified(caplog, notify_alarms)[1:] == ["the alarm could not be sent: the webhook answered 410"]


def test_the_webhook_gets_one_json_post_and_the_log_one_line(project, hook, caplog) -> None:
    configure(project, f"{hook.address}/200/{TOKEN}")
    assert notified(caplog) == [f"flow failed: explain (calm-otter) Failed: {STATE.message}"]
    ((method, path, content),) = hook.got
    assert (method, path) == ("POST", f"/200/{TOKEN}")
    assert content == {
        "text": f"explain (calm-otter) Failed: {STATE.message}",
        "flow": "explain",
        "run": "calm-otter",
        "run_id": "0-1-2",
        "state": "Failed",
    }


def test_without_a_webhook_only_the_log_tells(project, caplog) -> None:
    assert len(notified(caplog)) == 1


def test_the_environment_goes_before_the_file_also_when_the_file_is_broken(project, hook, caplog, monkeypatch) -> None:
    (project / "params.yaml").write_text("sead: 1\n")
    monkeypatch.setenv("XADFLOW_WEBHOOK", f"{hook.address}/200/{TOKEN}")
    assert len(notified(caplog)) == 1
    assert len(hook.got) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 410, 500])
def test_a_refused_report_is_logged_with_its_status(project, hook, caplog, status: int) -> None:
    configure(project, f"{hook.address}/{status}/{TOKEN}")
    assert notified(caplog)[1:] == [f"the failure could not be sent: the webhook answered {status}"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_logged_and_not_followed(project, hook, caplog, status: int) -> None:
    configure(project, f"{hook.address}/{status}/{TOKEN}")
    assert notified(caplog)[1:] == [f"the failure could not be sent: the webhook answered {status}"]
    assert [path for _, path, _ in hook.got] == [f"/{status}/{TOKEN}"]


def test_a_dead_webhook_hides_nothing_and_raises_nothing(project, caplog) -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        configure(project, f"http://127.0.0.1:{taken.getsockname()[1]}/{TOKEN}")
        first, second = notified(caplog)
    assert first.startswith("flow failed: explain (calm-otter) Failed")
    assert second == "the failure could not be sent to the webhook: ConnectionRefusedError"


def test_an_address_that_urllib_refuses_is_not_quoted(project, caplog) -> None:
    configure(project, f"http://127.0.0.1/a b/{TOKEN}")
    assert notified(caplog)[1:] == ["the failure could not be sent to the webhook: InvalidURL"]


@pytest.mark.parametrize(
    "value", [f"ftp://host/{TOKEN}", f"host/{TOKEN}", f"https:///{TOKEN}", f"http://[{TOKEN}", [TOKEN]]
)
def test_an_address_that_is_none_is_refused_and_not_shown(project, value: object) -> None:
    configure(project, value)
    with pytest.raises(BadSettings, match=r"notify\.webhook") as refused:
        load_settings(project / "params.yaml")
    assert TOKEN not in str(refused.value) + repr(refused.value.__cause__) + str(refused.value.__cause__)


def test_a_misspelt_key_does_not_show_the_address_either(project) -> None:
    raw = yaml.safe_load((project / "params.yaml").read_text())
    for change in ({"notify": {"webhok": f"https://a/{TOKEN}"}}, {"webhook": f"https://a/{TOKEN}"}, {"notify": TOKEN}):
        (project / "params.yaml").write_text(yaml.safe_dump({**raw, **change}))
        with pytest.raises(BadSettings) as refused:
            load_settings(project / "params.yaml")
        assert TOKEN not in str(refused.value) + str(refused.value.__cause__)


def test_a_wrong_address_in_the_environment_is_logged_without_it(project, caplog, monkeypatch) -> None:
    monkeypatch.setenv("XADFLOW_WEBHOOK", f"gopher://{TOKEN}")
    (first, second) = notified(caplog)
    assert "XADFLOW_WEBHOOK must be an address" in second


def test_settings_never_show_the_address(project) -> None:
    configure(project, f"https://host/{TOKEN}")
    settings = load_settings(project / "params.yaml")
    assert TOKEN not in repr(settings) + str(settings.model_dump(mode="json")) + settings.model_dump_json()
    assert webhook_address(Home.find(), settings) == f"https://host/{TOKEN}"


@pytest.mark.slow
@pytest.mark.server
def test_a_night_that_fails_is_reported(plant, champion, prefect_server, hook) -> None:
    with no_champion(plant):
        answer = plant.here("xadflow explain --dataset bolts", XADFLOW_WEBHOOK=f"{hook.address}/200/{TOKEN}")
    assert answer.status == 1
    assert TOKEN not in answer.said
    ((_, _, content),) = hook.got
    assert (content["flow"], content["state"]) == ("explain", "Failed")
    assert "NoChampion: no version of xad.bolts.fcdd carries the alias champion" in content["text"]


@pytest.mark.slow
@pytest.mark.server
def test_a_night_that_crashes_is_reported_and_the_next_command_is_told(
    plant, champion, prefect_server, hook, monkeypatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.explain.ensure_limits", killed)
    answer = plant.here("xadflow explain --dataset bolts", XADFLOW_WEBHOOK=f"{hook.address}/500/{TOKEN}")
    assert answer.status == 130
    assert "run the same command again" in answer.said
    assert TOKEN not in answer.said
    ((_, _, content),) = hook.got
    assert (content["flow"], content["state"]) == ("explain", "Crashed")
