"""The nightly flow: champion, new images, scores, explanations, validation, append, report.

prefect deployment run 'explain/nightly'     or      xadflow explain --dataset elpv
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, date, datetime
from typing import Any, cast

from prefect import flow, runtime, unmapped
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from tasks.dataset import build_dataset
from tasks.explaining import detectors_in_service, plan, shard
from tasks.failures import Failure, first_failure, raise_first
from tasks.publishing import finish, notify_alarms, notify_failure
from tasks.runtime import cluster_runner, local_runner
from tasks.slots import ensure_limits
from xadflow.datasets.in_use import using
from xadflow.explainers.declared import check_explainers
from xadflow.project import Project
from xadflow.settings import quiet_environment
from xadflow.stopping import stoppable


@flow(
    name="explain",
    task_runner=local_runner(),
    on_completion=[notify_alarms],
    on_failure=[notify_failure, notify_alarms],
    on_crashed=[notify_failure, notify_alarms],
)
def explain(
    datasets: list[str] | None = None,
    run_date: date | None = None,
    inbox: str | None = None,
    sample: tuple[int, int] | None = None,
    only_dates: list[date] | None = None,
    only_inbox: bool = False,
    explainers: list[str] | None = None,
    detectors: list[str] | None = None,
    is_built: bool = False,
) -> list[dict[str, Any]]:
    """Score and explain what has no row yet, by data set and detector; returns each one's report and figures.

    Args:
        run_date: partition of the tables; the scheduled day by default, never the clock's (a run can start early).
        inbox: folder of new images, for one data set.
        sample: (anomalies, normals) labelled test images only, as the demo does.
        only_dates: only images that the inbox brought on these dates.
        only_inbox: leave out the data set's own test images.
        explainers: which of them to run; by default explain.explainers and those trained for the detector.
        detectors: whose champions; those of retrain.detectors that have one by default.
        is_built: the data sets have just been brought up to date; DVC does not look at them again.

    Many parameters: Prefect shows, schedules and sets each of them by its name.
    """
    with stoppable():
        project = Project.open()
        quiet_environment(project.home)
        settings = project.settings
        check_explainers(settings)
        wanted = datasets or list(settings.explain.datasets)
        for name in wanted:
            settings.dataset(name)
        for name in explainers or ():
            settings.explainer(name)
        for name in detectors or ():
            settings.detector(name)
        cluster = None if settings.task_runner == "local" else cluster_runner(settings.task_runner)
        ensure_limits()
        day = run_date or scheduled_day()
        run = str(runtime.flow_run.id or datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))
        results: list[dict[str, Any]] = []
        failed: list[Failure] = []
        done: list[str] = []
        with using(project.home, wanted):
            for dataset in wanted:
                if not is_built:
                    build_dataset(dataset)
                for detector in detectors_in_service(dataset, detectors):
                    what = f"{dataset}, {detector}"
                    run_id = f"{run}-{dataset}-{detector}"
                    night = plan(dataset, detector, day, run_id, inbox, sample, only_dates, only_inbox, explainers)
                    failures = _failures(night, what, cluster)
                    results.append(finish(night["path"], [str(one.error) for one in failures]))
                    failed += failures
                    done.append(f"{what}: {night['shards'] - len(failures)} of {night['shards']} shards are published")
        raise_first(failed, done)
        return results


def _failures(night: dict[str, Any], what: str, cluster: TaskRunner[PrefectFuture[Any]] | None) -> list[Failure]:
    """Do every shard of a planned night, on a cluster or else on the flow's own threads; which of them failed."""
    indices = list(range(night["shards"]))
    with cluster.duplicate() if cluster is not None else nullcontext() as runner:
        shards: list[PrefectFuture[Any]]
        if runner is None:
            shards = list(shard.map(unmapped(night["path"]), indices, return_state=False))
        else:
            given = {"plan_path": unmapped(night["path"]), "index": indices}
            shards = list(cast("list[PrefectFuture[Any]]", runner.map(cast(Any, shard), given)))
        found = [first_failure(f"{what}, shard {index + 1}", one) for index, one in enumerate(shards)]
        return [one for one in found if one is not None]


def scheduled_day() -> date:
    """The day this run was scheduled for, in UTC; today when it was started by hand."""
    scheduled = runtime.flow_run.scheduled_start_time
    return scheduled.astimezone(UTC).date() if scheduled else datetime.now(UTC).date()
