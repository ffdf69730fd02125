"""`xadflow data remove`: a data set leaves the project, with all that was made for it alone.

What others rely on stays: rows of evidence, registered versions, the images of nights (rows point to them), the user's
own folder, and DVC's cache, in which bytes may belong to several data sets.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from xadflow.datasets.border import IMAGES
from xadflow.datasets.in_use import users_of
from xadflow.datasets.params_file import replace_params, without_dataset, without_keys
from xadflow.datasets.reproducing import turn
from xadflow.datasets.stages import INDEX, QUARANTINE, VALIDATION
from xadflow.datasets.writing import writing
from xadflow.errors import WrongUse
from xadflow.settings import Home, Settings, load_settings
from xadflow.settings.blocks import can_name_a_dataset

STAGES = ("origin", "images", "manifest", "validate")
"""Of each data set, in their order."""
# in data/<name>/, where the user's own folder may lie too
_MADE = (IMAGES, "manifest.parquet", QUARANTINE, VALIDATION, ".gitignore", ".images.partial", ".images.old")
_HALF = "*.partial"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Folder:
    """What goes of one folder: `files` files of `bytes` bytes in `places`; `path` as it is shown."""

    path: str
    places: tuple[Path, ...]
    files: int
    bytes: int


@dataclass(frozen=True)
class Removal:
    """What goes with a data set: places in params.yaml, stages in dvc.lock, files and folders."""

    name: str
    params: tuple[str, ...]
    stages: tuple[str, ...]
    folders: tuple[Folder, ...]


def plan_removal(home: Home, name: str) -> Removal:
    """Everything that :func:`remove` would take away; nothing is touched.

    Of a data set that a kill left half added, or half removed, it finds what is there.

    Raises:
        UnknownName: nothing of that name is there.
        WrongUse: something else needs it, or a run uses it.
    """
    settings = load_settings(home.params)
    if not can_name_a_dataset(name):  # a path, maybe
        settings.dataset(name)
    found = Removal(
        name,
        tuple(_listed(settings, name)),
        tuple(one for one in _locked(home.project) if one.partition("@")[2] == name),
        tuple(_made(home, settings, name)),
    )
    if not (found.params or found.stages or found.folders):
        settings.dataset(name)  # says which name was meant
    if needed := list(_needed_by(home, settings, name)):
        raise WrongUse(
            f"data set {name!r} is needed elsewhere, so it stays",
            seen="; ".join(needed),
            next_step="name another one there, or take that out first, then run the same command again",
        )
    if users := users_of(home, name):
        raise WrongUse(
            f"data set {name!r} is in use, so it stays",
            seen="; ".join(users),
            next_step="let it finish or stop it, then run the same command again",
        )
    return found


def remove(home: Home, removal: Removal) -> None:
    """Take a data set out of params.yaml first, so that nothing begins to use it, then out of dvc.lock, then its files.

    After a kill the same removal, planned again, takes the rest.

    Raises:
        CannotWrite: a file may not be written or removed, or the disk is full.
        Stopped: this process was asked to stop while another `dvc repro` was at work.
    """
    with turn(home.project), writing(f"the project without data set {removal.name!r}"):
        if removal.params:
            replace_params(home.params, without_dataset(home.params.read_text(encoding="utf-8"), removal.name))
        _unlock(home.project, removal.name)
        for place in (place for folder in removal.folders for place in folder.places):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        for folder in (home.dataset(removal.name), home.dataset(".origin")):
            with suppress(OSError):  # something else is in it
                folder.rmdir()


def undo_addition(home: Home, name: str) -> None:
    """Take away what adding a new data set has made so far; its inbox, which that does not make, stays.

    Raises as :func:`remove`.
    """
    settings = load_settings(home.params)
    if name in settings.datasets:  # else it failed before there was anything
        remove(home, Removal(name, ("datasets",), (), tuple(_made(home, settings, name, inbox=False))))


def _made(home: Home, settings: Settings, name: str, inbox: bool = True) -> Iterator[Folder]:
    """What was made of a data set, and its inbox; never the folder that it comes from, wherever that lies.

    Of a name that params.yaml does not have, only what nobody but we can have made.
    """
    entry, own = settings.datasets.get(name), None
    if entry is not None and (path := entry.options.get("path")) is not None:
        own = (home.project / str(path)).expanduser().resolve()
    folder, origin = home.dataset(name), home.dataset(".origin") / f"{name}.json"
    built = [folder / one for one in _MADE] + sorted(folder.glob(_HALF))
    if entry is None:
        inbox = False
        built = [one for one in built if one.name != IMAGES or (one / INDEX).is_file()]
    for shown, places in ((folder, built), (origin, [origin]), (home.inbox(name), [home.inbox(name)] if inbox else [])):
        there = [place for place in places if place.is_symlink() or place.exists()]
        if gone := tuple(one for one in there if own is None or not own.is_relative_to(one.resolve())):
            files = [file for one in gone for file in _files(one)]
            yield Folder(home.shown(shown), gone, len(files), sum(file.lstat().st_size for file in files))


def _listed(settings: Settings, name: str) -> Iterator[str]:
    for where, names in (
        ("catalogue", settings.catalogue),
        ("datasets", tuple(settings.datasets)),
        ("retrain.datasets", settings.retrain.datasets),
        ("explain.datasets", settings.explain.datasets),
    ):
        if name in names:
            yield where


def _needed_by(home: Home, settings: Settings, name: str) -> Iterator[str]:
    for other, its in settings.datasets.items():
        if its.outliers == name and other != name:
            yield f"datasets.{other}.outliers in params.yaml"
    for where, night in (("demo", settings.demo), ("demo.diverse", settings.demo.diverse)):
        if night is not None and night.dataset == name:
            yield f"{where}.dataset in params.yaml"
    for explainer, several in settings.retrain.explainers.items():
        if any(name in one.datasets for one in several):
            yield f"retrain.explainers.{explainer}.datasets in params.yaml"
    for deployment in _deployments(home.project / "prefect.yaml"):
        given = deployment.get("parameters")
        if isinstance(given, dict) and name in (given.get("datasets") or ()):
            yield f"deployment {deployment.get('name')} in prefect.yaml"


def _deployments(path: Path) -> list[dict[str, object]]:
    """What prefect.yaml deploys; [] where it is not there or not of that shape, which `xadflow doctor` says."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _locked(project: Path) -> list[str]:
    """Stages of dvc.lock; [] of one that is not there, or that DVC itself cannot read."""
    try:
        stages = yaml.load((project / "dvc.lock").read_text(encoding="utf-8"), _Loader)["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []
    return list(stages) if isinstance(stages, dict) else []


def _unlock(project: Path, name: str) -> None:
    """Take a data set's stages out of dvc.lock; one that has no other goes."""
    path, stages = project / "dvc.lock", _locked(project)
    gone = [one for one in stages if one.partition("@")[2] == name]
    if not gone:
        return
    if len(gone) == len(stages):
        path.unlink()
        return
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(without_keys(path.read_text(encoding="utf-8"), "stages", gone), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _files(place: Path) -> list[Path]:
    if place.is_symlink() or not place.is_dir():
        return [place]
    return [one for one in place.rglob("*") if one.is_symlink() or not one.is_dir()]
