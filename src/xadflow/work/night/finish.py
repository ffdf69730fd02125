"""The end of a night: the report page, and explanation quality into MLflow. Everything is read back from the tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xadflow.evidence.alarms import open_alarms
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.transplants import donor_paths
from xadflow.images import decode_png, restore_map
from xadflow.metrics.validity import distance_for, nearest_valid
from xadflow.models.judges.transfer import Case, cases_of_rows, curve_figure, figures_of, transfer_curve
from xadflow.models.registry import Registry
from xadflow.pictures.curves import validity_figure
from xadflow.pictures.plots import SheetRow, contact_sheet
from xadflow.project import Project
from xadflow.report.evidence import HEATMAP, drift_of, explainer_figures, score_quantiles, worst_cases
from xadflow.report.page import Link, NightCounts, NightlyReport, Quarantined, Query, write_nightly_report
from xadflow.settings import Home
from xadflow.settings.judges import why_no_judge
from xadflow.work.night.on_masks import night_on_masks
from xadflow.work.night.plan import NightPlan
from xadflow.work.night.work import ShardFigures, read_figures

WORST_SHOWN = 12
SHEET_ROWS = 6
WITHOUT_PICTURES = ["image_id", "image_path", "score", "p_value", "explainer", "is_anomaly", "run_id"]


def queries(tables: str) -> tuple[Query, ...]:
    """How to read the tables, which lie at this path of the project."""
    return (
        Query(
            "DuckDB",
            f"""import duckdb
from deltalake import DeltaTable

explanations = DeltaTable("{tables}/explanations").to_pyarrow_dataset()
duckdb.sql("select image_path, score, p_value, explainer from explanations order by score desc limit 20")""",
        ),
        Query(
            "pandas",
            f"""import pandas as pd
from deltalake import DeltaTable

pd.read_parquet(DeltaTable("{tables}/scores").file_uris())""",
        ),
    )


@dataclass(frozen=True)
class FinishedNight:
    """Where the page is, the figures that were logged, the MLflow run's address, and the contact sheet if any.

    `refused` are tonight's files in quarantine, by reason; `refused_list` is where all of them are listed.
    """

    report: Path
    figures: Mapping[str, float | int]
    mlflow: str
    sheet: Path | None
    refused: Mapping[str, Sequence[str]]
    refused_list: str


def finish_night(project: Project, plan: NightPlan, failures: Sequence[str]) -> FinishedNight:
    """Write var/reports/<dataset>-<detector>-<date>-<run>.html and log the night's figures to the model version's run.

    `failures` are the messages of shards that failed; they head the page's warnings.
    """
    written = _written(project, plan)
    on_masks = night_on_masks(project, plan)
    report = replace(_report(project, plan, written, failures), on_masks=on_masks.shown)
    path = project.home.reports / f"{plan.dataset}-{plan.detector}-{plan.run_date}-{plan.run_id[:8]}.html"
    write_nightly_report(report, path)

    figures: dict[str, float | int] = {
        "images": report.counts.scored,
        "anomalous": report.counts.anomalous,
        "explained": report.counts.explained,
        "already_there": report.counts.already_there,
        "quarantined": len(report.quarantined),
        **on_masks.figures,
    }
    for one in report.explainers:
        for name in ("flip_rate", "changed_fraction", "change_inside"):
            value = float(getattr(one, name))
            if np.isfinite(value):
                figures[f"{one.explainer}.{name}"] = value
    cases = _judged(written.measured)
    for explainer, its in cases.items():
        figures |= {f"{explainer}.{name}": value for name, value in figures_of(its).items() if np.isfinite(value)}
    sheet = _sheet(path.with_suffix(".png"), report, written.worst)
    pictures = {f"worst-{plan.run_date}": sheet} if sheet else {}
    if nearest := _nearest(written.measured):
        figures |= {
            f"{name}.median_l2": far for name, each in nearest.items() if np.isfinite(far := distance_for(each))
        }
        pictures[f"validity-{plan.run_date}"] = path.with_suffix(".validity.png")
        validity_figure(nearest, pictures[f"validity-{plan.run_date}"], "l2 of the change, pixel values in [0, 1]")
    curves = {name: points for name, its in cases.items() if (points := transfer_curve(its))}
    if curves:
        pictures[f"transfer-{plan.run_date}"] = path.with_suffix(".transfer.png")
        curve_figure(curves, pictures[f"transfer-{plan.run_date}"])
    if report.counts.scored or written.explained.num_rows:
        ref = project.registry.resolve(f"{plan.model_name}/{plan.model_version}")
        project.registry.log_explanations(
            ref, {f"night.{name}": float(value) for name, value in figures.items()}, pictures
        )
    refused: dict[str, list[str]] = {}
    for file in sorted(report.quarantined, key=lambda file: (file.reason, file.path)):
        refused.setdefault(file.reason, []).append(file.path)
    night = project.home.state / "inbox-runs" / plan.dataset / plan.run_date
    listed = project.home.shown(night / "quarantine.parquet")
    return FinishedNight(path, figures, _link(project.registry, plan), sheet, refused, listed)


@dataclass(frozen=True)
class _Written:
    """What the night wrote, read once: scores, what was explained, figures, and whole rows of the worst images."""

    shards: Sequence[ShardFigures]
    scores: pa.Table
    explained: pa.Table
    measured: list[dict[str, Any]]
    worst: list[dict[str, Any]]


def _written(project: Project, plan: NightPlan) -> _Written:
    store = project.store
    explained = _of_run(store, "explanations", plan, WITHOUT_PICTURES)
    return _Written(
        shards=read_figures(project.home, plan.run_id),
        scores=_of_run(store, "scores", plan, None),
        explained=explained,
        measured=_measured(store, plan),
        worst=_rows_of_worst(store, plan, explained),
    )


def _of_run(store: EvidenceStore, table: str, plan: NightPlan, columns: list[str] | None) -> pa.Table:
    where = (
        (pc.field("run_date") == dt.date.fromisoformat(plan.run_date))
        & (pc.field("run_id") == plan.run_id)
        & (pc.field("dataset") == plan.dataset)
    )
    return store.read(table, columns=columns, where=where)


def _rows_of_worst(store: EvidenceStore, plan: NightPlan, explained: pa.Table) -> list[dict[str, Any]]:
    """Whole rows, pictures included, of the images with the highest scores only."""
    if explained.num_rows == 0:
        return []
    best = explained.group_by("image_id").aggregate([("score", "max")]).sort_by([("score_max", "descending")])
    ids = best["image_id"].to_pylist()[:WORST_SHOWN]
    where = (pc.field("run_id") == plan.run_id) & pc.field("image_id").isin(ids)
    rows: list[dict[str, Any]] = store.read("explanations", where=where).to_pylist()
    return rows


def _measured(store: EvidenceStore, plan: NightPlan) -> list[dict[str, Any]]:
    """Rows of tonight with figures but without pictures."""
    table = _of_run(store, "explanations", plan, ["explainer", "counterfactuals", "metrics"])
    rows = []
    for batch in table.to_batches(max_chunksize=100):
        for row in batch.to_pylist():
            row["counterfactuals"] = [{**one, "image": None} for one in row["counterfactuals"] or ()]
            rows.append(row)
    return rows


def _judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Case]]:
    """What held-out judges said of tonight's counterfactuals, by explainer; those without a word are left out."""
    by_explainer: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_explainer.setdefault(str(row["explainer"]), []).append(row)
    found = {name: cases_of_rows(its) for name, its in sorted(by_explainer.items())}
    return {name: cases for name, cases in found.items() if cases}


def _nearest(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """l2 of each image's nearest counterfactual that is normal, by explainer; inf for none."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if made := row["counterfactuals"]:
            far = nearest_valid([[one["l2"] for one in made]], [[one["is_normal"] for one in made]])
            found.setdefault(row["explainer"], []).append(float(far[0]))
    return {name: np.array(each) for name, each in sorted(found.items())}


def _report(project: Project, plan: NightPlan, written: _Written, failures: Sequence[str]) -> NightlyReport:
    from xadflow.detectors.base import load_detector

    calibration = load_detector(Path(plan.detector_folder)).calibration
    refused = [Quarantined(path, reason) for shard in written.shards for path, reason in sorted(shard.refused.items())]
    refused += [Quarantined(path, reason) for path, reason in plan.quarantined.items()]
    scores, explained = written.scores, written.explained
    new = explained.filter(pc.is_in(explained["image_id"], scores["image_id"].combine_chunks()))
    unasked = (f"No judge was asked about the counterfactuals. {plan.no_judge}",) if plan.no_judge else ()
    on_purpose = why_no_judge(project.settings, plan.dataset) is not None
    earlier = project.store.read(
        "scores",
        columns=["p_value"],
        where=(pc.field("model_name") == plan.model_name)
        & (pc.field("model_version") == plan.model_version)
        & (pc.field("dataset") == plan.dataset)
        & (pc.field("run_id") != plan.run_id),
    )
    tables = project.home.shown(project.home.tables)
    new_images = plan.images - sum(len(shard.refused) for shard in written.shards)
    return NightlyReport(
        title="Nightly anomaly report",
        run_date=dt.date.fromisoformat(plan.run_date),
        dataset=plan.dataset,
        model_name=plan.model_name,
        model_version=plan.model_version,
        run_id=plan.run_id,
        commit=str(plan.identity["commit"]),
        counts=NightCounts(
            new_images=new_images if not _only_explains(plan) else 0,
            scored=scores.num_rows,
            anomalous=int(pc.sum(scores["is_anomaly"]).as_py() or 0),
            explained=_complete(new, plan) if scores.num_rows else 0,
            already_there=plan.already,
            anew=pc.count_distinct(explained["image_id"]).as_py() - pc.count_distinct(new["image_id"]).as_py(),
        ),
        threshold=calibration.threshold,
        false_alarm_rate=calibration.false_alarm_rate,
        judges_apart=all(one.apart for one in plan.judges),
        quarantined=tuple(refused),
        quantiles=score_quantiles(scores["score"].to_numpy(), calibration.normal_scores),
        drift=drift_of(scores["p_value"].to_numpy(), earlier["p_value"].to_numpy()),
        explainers=explainer_figures(written.measured),
        seconds=_seconds(written.shards),
        worst_cases=worst_cases(written.worst, WORST_SHOWN, donor_paths(project.home, written.worst)),
        links=(
            Link("MLflow run", _link(project.registry, plan), "metrics, plots, lineage of this model version"),
            Link("Tables", tables, "scores and explanations, Delta Lake"),
            Link("Audit", "xadflow audit verify", "checks every commit against the ledger"),
        ),
        queries=queries(tables),
        warnings=(*warnings_of(project.home, plan.left_out, failures), *(() if on_purpose else unasked)),
        notes=unasked if on_purpose else (),
    )


def warnings_of(home: Home, left_out: Mapping[str, str], failures: Sequence[str]) -> tuple[str, ...]:
    """What asks for a person, the gravest first: alarms of the ledger, failed shards, explainers that did not run."""
    return (
        *open_alarms(home.ledger),
        *(f"A shard failed: {message.replace(f'{home.project}/', '')}" for message in failures),
        *(f"The explainer {name} did not run. {why}" for name, why in left_out.items()),
    )


def _only_explains(plan: NightPlan) -> bool:
    """Whether the night scores nothing new: a new explainer running over what was scored before."""
    return all(image.scored for shard in plan.shards for image in shard)


def _complete(explained: pa.Table, plan: NightPlan) -> int:
    """How many images of this run have a row of every explainer."""
    if explained.num_rows == 0:
        return 0
    counts = explained.group_by("image_id").aggregate([("explainer", "count_distinct")])
    return int(pc.sum(pc.equal(counts["explainer_count_distinct"], len(plan.explainers))).as_py() or 0)


def _seconds(shards: Sequence[ShardFigures]) -> dict[str, float]:
    total: dict[str, float] = {}
    for shard in shards:
        for name, value in shard.seconds.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _sheet(path: Path, report: NightlyReport, shown: Sequence[Mapping[str, Any]]) -> Path | None:
    """The worst cases as one PNG for MLflow and Prefect: image, raw heatmap, counterfactual, change;
    transplants first.
    """
    heated = [row for row in shown if row["heatmap"] is not None]
    heat = {
        row["image_id"]: row for row in sorted(heated, key=lambda row: row["explainer"] == HEATMAP)
    }  # the last one stays
    rows = []
    for case in report.worst_cases:
        made, score = case.counterfactual, case.counterfactual_score
        if case.transplants:
            made, score = case.transplants[0].picture, case.transplants[0].score
        if case.original is None or made is None or case.image_id not in heat:
            continue
        row = heat[case.image_id]
        raw = restore_map(decode_png(row["heatmap"]["bytes"])[0], row["heatmap_min"], row["heatmap_max"])
        change = (made.astype(np.float64) - case.original) / 255.0
        caption = f"{Path(case.image_path).name}  score {case.score:.2f} to {score:.2f}"
        rows.append(SheetRow(case.original, raw, made, change, caption))
    if not rows:
        return None
    contact_sheet(rows[:SHEET_ROWS], path, f"{report.dataset} {report.run_date}: highest scores")
    return path


def _link(registry: Registry, plan: NightPlan) -> str:
    return registry.run_link(registry.resolve(f"{plan.model_name}/{plan.model_version}"))
