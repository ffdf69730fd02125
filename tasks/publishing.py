"""Publishing: the report page, the figures in MLflow, Prefect artifacts, and the word to people when a flow fails."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging.loggers import flow_run_logger

from tasks.runtime import step
from xadflow.errors import XadflowError
from xadflow.evidence.alarms import open_alarms
from xadflow.progress import track
from xadflow.project import Project
from xadflow.settings import webhook_address
from xadflow.work.night import read_plan
from xadflow.work.night.finish import finish_night

_WEBHOOK_S = 10.0
_LONGEST_TEXT = 2000
_FIRST_NAMED = 3  # refused files of a reason


@step("finish night")
def finish(plan_path: str, failures: list[str]) -> dict[str, Any]:
    """Write the report page, log explanation quality to MLflow and leave Prefect artifacts that link to both."""
    project = Project.open()
    night = read_plan(Path(plan_path))
    with track(f"report of {night.dataset}", "report"):
        done = finish_night(project, night, failures)
    key = f"{night.dataset}-explained"
    create_table_artifact(
        key=key,
        description=f"{night.dataset} on {night.run_date}",
        table=[{"figure": name, "value": value} for name, value in done.figures.items()],
    )
    create_markdown_artifact(
        key=f"{night.dataset}-links",
        markdown=f"Model `{night.model_name}` version {night.model_version}, MLflow run {done.mlflow}\n\n"
        f"Report `{done.report}`\n\nTables `{project.home.tables}`",
    )
    if done.sheet is not None:
        create_image_artifact(key=f"{night.dataset}-worst", image_url=done.sheet.as_uri())
    return {
        "report": str(done.report),
        "figures": done.figures,
        "left_out": dict(night.left_out),
        "refused": {reason: [len(names), list(names[:_FIRST_NAMED])] for reason, names in done.refused.items()},
        "refused_list": done.refused_list,
    }


@task(name="report gate", cache_policy=NO_CACHE)
def report_gate(outcomes: list[dict[str, Any]]) -> None:
    """Leave the gate's verdicts as Prefect artifacts: one table, and one page with links to MLflow."""
    create_table_artifact(
        key="retrain-gate",
        table=[
            {
                "model": one["model"],
                "version": one["version"],
                "trained": one["trained"],
                "champion": one.get("in_service", one["passed"]),
                "reasons": "; ".join(one["reasons"]),
            }
            for one in outcomes
        ],
        description="What the gate said",
    )
    lines = [f"- `{one['model']}` version {one['version']}: {one['link']}" for one in outcomes]
    create_markdown_artifact(key="retrain-runs", markdown="\n".join(["MLflow runs", "", *lines]))


def notify_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook of both flows for failed and crashed runs: one log line, and a JSON POST to the webhook if one is
    configured.

    The lines are in the run's own log, which Prefect shows. Never raises, so that a notification which cannot be sent
    does not hide the failure it is about; and never logs the webhook's address, which as a rule holds a token.
    """
    text = f"{flow.name} ({flow_run.name}) {state.name}: {state.message}"[:_LONGEST_TEXT]
    flow_run_logger(flow_run, flow).error("flow failed: %s", text)
    _send(flow, flow_run, "failure", text, state.name)


def notify_alarms(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook of the nightly flow, however it ends: what went into the ledger though nobody announced it reaches a person
    as a failure does, each night until somebody vouches for it. Never raises.
    """
    logger = flow_run_logger(flow_run, flow)
    try:
        alarms = open_alarms(Project.open().home.ledger)
    except Exception as err:  # no project any more: the run has failed of that, and has said so
        logger.error("alarms of the ledger could not be read: %s", type(err).__name__)
        return
    for alarm in alarms:
        logger.error("%s", alarm)
    if alarms:
        text = f"{flow.name} ({flow_run.name}) {' '.join(alarms)}"[:_LONGEST_TEXT]
        _send(flow, flow_run, "alarm", text, "Alarm")


def _send(flow: Any, flow_run: Any, what: str, text: str, state: str) -> None:
    """POST a text to the webhook, if there is one; that it could not be sent is logged, and its address never."""
    logger = flow_run_logger(flow_run, flow)
    try:
        address = _webhook()
        if address is not None:
            said = {"text": text, "flow": flow.name, "run": flow_run.name, "run_id": str(flow_run.id), "state": state}
            _post(address, said)
    except XadflowError as err:
        logger.error("the %s could not be sent: %s", what, err)
    except urllib.error.HTTPError as err:
        logger.error("the %s could not be sent: the webhook answered %d", what, err.code)
    except Exception as err:  # its text may quote the address
        reason = getattr(err, "reason", err)
        logger.error("the %s could not be sent to the webhook: %s", what, type(reason).__name__)


def _webhook() -> str | None:
    project = Project.open()
    # A params.yaml that cannot be read may be the very failure to report.
    return webhook_address(project.home, None if project.home.webhook else project.settings)


def _post(address: str, content: dict[str, str]) -> None:
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    urllib.request.build_opener(_NoRedirect).open(request, timeout=_WEBHOOK_S).close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the report would go where nobody has configured it to, or become a GET
    without content.
    """

    def redirect_request(self, *_: Any) -> None:
        return None
