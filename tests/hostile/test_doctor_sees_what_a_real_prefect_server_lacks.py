"""`xadflow doctor` against a real Prefect server, from an empty one to one that can run the nights."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from flows.explain import explain

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.fixture
def diagnose(plant, added, prefect_server):
    def found() -> dict[str, dict[str, str]]:
        answer = plant.here("xadflow doctor --json", PREFECT_API_URL=prefect_server)
        findings = json.loads(answer.said.splitlines()[-1])["findings"]
        assert [one for one in findings if one["what"] == "prefect" and one["level"] != "ok"] == [], findings
        return {one["what"]: one for one in findings}

    return found


def test_each_thing_that_scheduled_runs_need_is_found_lacking_then_there(diagnose, prefect_server) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        for limit in client.read_global_concurrency_limits():
            client.delete_global_concurrency_limit_by_name(limit.name)
        found = diagnose()
        assert found["limit gpu"]["mend"].startswith("prefect gcl create gpu --limit 1")
        assert found["pool local"]["mend"].startswith("prefect work-pool create local --type process")
        assert found["deployment nightly"]["mend"].startswith("prefect --no-prompt deploy --all")
        assert {found[name]["level"] for name in ("limit dvc", "pool local", "deployment weekly")} == {"fail"}
        assert found["webhook"]["level"] == "warn"

        for name in ("gpu", "dvc"):
            client.upsert_global_concurrency_limit_by_name(name, limit=1)
        client.create_work_pool(WorkPoolCreate(name="local", type="process"))
        deployed = UUID(str(explain.to_deployment("nightly", cron="30 3 * * *", work_pool_name="local").apply()))
        found = diagnose()
        assert found["limit gpu"] == {"what": "limit gpu", "level": "ok", "said": "0 of 1 slots taken", "mend": ""}
        assert found["pool local"]["said"].startswith("no worker is online")
        assert found["pool local"]["mend"].startswith("prefect worker start --pool local")
        assert found["deployment nightly"]["said"] == "explain/nightly, 30 3 * * *"
        assert found["deployment weekly"]["said"] == "not deployed"

        client._client.post("/work_pools/local/workers/heartbeat", json={"name": "one"}).raise_for_status()
        client.pause_deployment(deployed)
        found = diagnose()
        assert found["pool local"]["said"] == "1 worker online"
        assert "paused" in found["deployment nightly"]["said"]
        client.resume_deployment(deployed)
        (schedule,) = client.read_deployment_schedules(deployed)
        client.update_deployment_schedule(deployed, schedule.id, active=False)
        assert diagnose()["deployment nightly"]["said"] == "explain/nightly has no active schedule 30 3 * * *"
