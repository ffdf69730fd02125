"""Explaining: plan a night, and do one shard of it (one task a shard, never one an image)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from tasks.runtime import step
from tasks.slots import GPU, slot
from xadflow.models.registry import CHAMPION
from xadflow.progress import track
from xadflow.project import Project
from xadflow.work.night import NightOrder, explain_shard, plan_night, read_plan


@step("detectors in service")
def detectors_in_service(dataset: str, named: list[str] | None) -> list[str]:
    """The detectors of `named` that explain a data set; by default those of retrain.detectors that have a champion.

    Raises NoChampion when a named one has none, or none of the default ones has.
    """
    project = Project.open()
    project.registry.prepare()
    wanted = named or list(project.settings.retrain.detectors)
    found = [name for name in wanted if project.registry.alias(f"xad.{dataset}.{name}", CHAMPION) is not None]
    missing = [name for name in wanted if name not in found]
    if missing and (named or not found):
        project.registry.champion(f"xad.{dataset}.{missing[0]}")  # says what to do
    return found


@step("plan night", "plan {dataset} {detector} {run_date}")
def plan(
    dataset: str,
    detector: str,
    run_date: date,
    run_id: str,
    inbox: str | None,
    sample: tuple[int, int] | None,
    only_dates: list[date] | None,
    only_inbox: bool,
    explainers: list[str] | None,
) -> dict[str, Any]:
    """Repair the tables, resolve the champion once and list the work. Returns the plan's path and its counts.

    Many parameters: Prefect shows each of them by its name; they are the fields of a NightOrder.
    """
    project = Project.open()
    with track(f"plan the night of {dataset} {detector}", "night"):
        project.registry.prepare()
        project.store.prepare()
        order = NightOrder(
            dataset=dataset,
            detector=detector,
            run_date=run_date,
            run_id=run_id,
            inbox=Path(inbox) if inbox else None,
            sample=sample,
            only_dates=only_dates,
            only_inbox=only_inbox,
            explainers=explainers,
        )
        path = plan_night(project, order)
    night = read_plan(path)
    return {"path": str(path), "shards": len(night.shards), "images": night.images, "already": night.already}


@step("explain shard", "shard {index}")
def shard(plan_path: str, index: int) -> dict[str, Any]:
    """Score, explain and publish one shard; doing it again adds nothing. Returns its counts and seconds."""
    project = Project.open()
    night = read_plan(Path(plan_path))
    with track(f"explain {night.dataset}, shard {index + 1} of {len(night.shards)}", "night") as update:
        figures = explain_shard(project, night, index, update, device_slot=partial(slot, GPU))
    return asdict(figures)
