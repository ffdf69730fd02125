"""What `xadflow doctor` looks at in MLflow: the store or server itself, and which version is in service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from xadflow.cli.doctor.checks import Finding
from xadflow.errors import BadWeights, RegistryUnavailable
from xadflow.project import Project
from xadflow.settings import Home

if TYPE_CHECKING:
    from xadflow.models.registry import Registry
    from xadflow.models.versions import ModelRef


def mlflow_database(home: Home) -> Iterator[Finding]:
    """The embedded database's schema, or the server's health."""
    from xadflow.models.tracking_store import ask_health, is_server, shown, sqlite_file, sqlite_revision

    uri = home.mlflow_uri
    try:
        if is_server(uri):
            ask_health(uri)
            yield Finding("mlflow", "ok", f"server {shown(uri)} answers")
        elif not uri.startswith("sqlite:///"):
            yield Finding("mlflow", "ok", f"database {shown(uri)} (not opened)")
        elif revision := sqlite_revision(sqlite_file(uri)):
            yield Finding("mlflow", "ok", f"embedded database, schema {revision}")
        else:
            yield Finding("mlflow", "warn", "no database yet", "made by the first `xadflow retrain`")
    except RegistryUnavailable as err:
        yield Finding("mlflow", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def moved(home: Home) -> Iterator[Finding]:
    """What a project that was moved or copied left behind: the files of its models, and the code that runs.

    Of versions whose files are not here it says where they were.
    """
    import xadflow
    from xadflow.models.places import left_behind

    running, own = Path(str(xadflow.__file__)).resolve().parent, home.project / "src" / "xadflow"
    if own.is_dir() and own.resolve() != running:
        said = f"the code that runs is {running}, not this checkout's: .venv was moved or copied with it"
        yield Finding("moved", "warn", said, "make setup, which makes .venv anew")
    for old in left_behind(home.mlflow_uri, home.mlflow_artifacts):
        said = f"MLflow's database names {old}: the project was moved or copied; looked for is in {home.state.name}/"
        if missing := _missing(home):
            said += f", and those of {', '.join(missing)} are not there"
            yield Finding("moved", "fail", said, f'cp -rn "{old}/." "{home.mlflow_artifacts}"')
        else:
            yield Finding("moved", "warn", said, "the next `xadflow retrain` or `xadflow explain` writes the new place")


def _missing(home: Home) -> list[str]:
    """Versions whose files are not below our artifacts, at most five."""
    from xadflow.models.registry import Registry

    registry = Registry(home.mlflow_uri, home.mlflow_artifacts)
    found = []
    for model in registry.models():
        for one in model.versions:
            try:
                registry.place(registry.resolve(f"{model.name}/{one.version}"))
            except BadWeights:
                found.append(f"{model.name}/{one.version}")
    return found[:5]


def champions(project: Project) -> Iterator[Finding]:
    """What is in service for each data set that is explained, and whether its files are those registered."""
    from xadflow.models.tracking_store import is_server

    settings = project.settings
    names = [(one, detector) for one in settings.explain.datasets for detector in settings.retrain.detectors]
    try:
        registry = _registry(project)
        for dataset, detector in names:
            name = f"xad.{dataset}.{detector}"
            found = registry.alias(name, "champion") if registry is not None else None
            if registry is None or found is None:
                yield Finding("champion", "warn", f"{name} has none", f"xadflow retrain --dataset {dataset}")
                continue
            try:
                registry.detector_folder(found)
            except BadWeights as err:
                yield Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)
            else:
                yield Finding("champion", "ok", f"{name} version {found.version}")
            for explainer in settings.trained_explainers(dataset, detector):
                yield _explainer(registry, dataset, found, explainer)
    except RegistryUnavailable as err:
        if not is_server(project.home.mlflow_uri):  # of a server that is down mlflow_database tells already
            yield Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def judges(project: Project) -> Iterator[Finding]:
    """The judge of each data set that is trained for: its version in service and its files, or why there is none."""
    from xadflow.models.tracking_store import is_server
    from xadflow.models.versions import judge_of
    from xadflow.settings.judges import why_no_judge

    settings = project.settings
    try:
        registry = _registry(project)
        for dataset in settings.retrain.datasets:
            name = judge_of(dataset)
            if (reason := why_no_judge(settings, dataset)) is not None:
                yield Finding("judge", "ok", f"{dataset} has none: {reason}")
                continue
            found = registry.alias(name, "judge") if registry is not None else None
            if registry is None or found is None:
                yield Finding(
                    "judge",
                    "warn",
                    f"{name} is not registered: nobody is asked about the counterfactuals of {dataset}",
                    f"xadflow retrain --dataset {dataset}",
                )
                continue
            try:
                registry.detector_folder(found)
            except BadWeights as err:
                yield Finding("judge", "fail", f"{err.wrong}: {err.seen}", f"xadflow retrain --dataset {dataset}")
            else:
                yield Finding("judge", "ok", f"{name} version {found.version}")
    except RegistryUnavailable as err:
        if not is_server(project.home.mlflow_uri):  # of a server that is down mlflow_database tells already
            yield Finding("judge", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def _registry(project: Project) -> Registry | None:
    """None where there is no database yet: looking must not create it. Raises RegistryUnavailable."""
    from xadflow.models.tracking_store import sqlite_file, sqlite_revision

    uri = project.home.mlflow_uri
    if uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(uri)) is None:
        return None
    return project.registry


def _explainer(registry: Registry, dataset: str, detector: ModelRef, explainer: str) -> Finding:
    """What is in service of an explainer that is trained for this detector."""
    from xadflow.models.service import explainer_in_service, why_none

    name = f"{detector.name}.{explainer}"
    try:
        found = explainer_in_service(registry, detector, explainer)
        if found is None:
            return Finding(
                "champion",
                "warn",
                f"{name} has none. {why_none(registry, detector, explainer)}",
                f"xadflow retrain --dataset {dataset}",
            )
        registry.explainer_folder(found)
    except BadWeights as err:
        return Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)
    return Finding("champion", "ok", f"{name} version {found.version}")
