"""Publishing: the report page, the figures in MLflow, Prefect artifacts, and the word to people when a flow fails."""

from __future__ import annotations

import json
import logging
import urllib.request
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.runtime import RETRY_DELAYS, is_transient, open_project
from xadflow.nightly import read_plan
from xadflow.nightly.finish import finish_night
from xadflow.settings import Home, load_settings

logger = logging.getLogger(__name__)


@task(
    name="finish night", cache_policy=NO_CACHE, retries=len(RETRY_DELAYS), retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=is_transient,
)  # fmt: skip
def finish(plan_path: str, failures: list[str]) -> dict[str, Any]:
    """Write the report page, log explanation quality to MLflow and leave Prefect artifacts that link to both."""
    project = open_project()
    night = read_plan(Path(plan_path))
    done = finish_night(project.home, project.settings, project.registry, project.store, night, failures)
    key = f"{night.dataset}-explained"
    create_table_artifact(
        key=key, description=f"{night.dataset} on {night.run_date}",
        table=[{"figure": name, "value": value} for name, value in done.figures.items()],
    )  # fmt: skip
    create_markdown_artifact(
        key=f"{night.dataset}-links",
        markdown=f"Model `{night.model_name}` version {night.model_version}, MLflow run {done.mlflow}\n\n"
        f"Report `{done.report}`\n\nTables `{project.home.tables}`",
    )
    if done.sheet is not None:
        create_image_artifact(key=f"{night.dataset}-worst", image_url=done.sheet.as_uri())
    return {"report": str(done.report), "figures": done.figures}


@task(name="report gate", cache_policy=NO_CACHE)
def report_gate(outcomes: list[dict[str, Any]]) -> None:
    """Leave the gate's verdicts as Prefect artifacts: one table, and one page with links to MLflow."""
    create_table_artifact(
        key="retrain-gate",
        table=[
            {"model": one["model"], "version": one["version"], "trained": one["trained"],
             "champion": one["passed"], "reasons": "; ".join(one["reasons"])}
            for one in outcomes
        ],
        description="What the gate said",
    )  # fmt: skip
    lines = [f"- `{one['model']}` version {one['version']}: {one['link']}" for one in outcomes]
    create_markdown_artifact(key="retrain-runs", markdown="\n".join(["MLflow runs", "", *lines]))


def notify_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Failure hook of both flows: one log line, and a JSON POST to notify.webhook if params.yaml names one.

    Never raises: a failed notification must not hide the failure it is about.
    """
    text = f"{flow.name} ({flow_run.name}) {state.name}: {state.message}"
    logger.error("flow failed: %s", text)
    try:
        webhook = load_settings(Home.find().params).notify.webhook
        if webhook and webhook.startswith(("http://", "https://")):
            body = json.dumps({"text": text, "flow": flow.name, "run": flow_run.name, "state": state.name}).encode()
            request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=10).close()
    except Exception as err:
        logger.error("the failure could not be sent to notify.webhook: %s", type(err).__name__)
