"""RunIdentity: everything a row follows from, formed once a run. No host, no clock: equal work gives equal lineage."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

import xadflow
from xadflow.digests import sha256_bytes, sha256_json
from xadflow.errors import WorkFailed

# Whose bytes an answer hangs on. tests/architecture holds that these import nothing else but what NOT_HASHED names.
DETECTOR_CODE = (
    "calibration.py",
    "datasets/loading.py",
    "datasets/manifest.py",
    "datasets/training_data.py",
    "defects",
    "detectors",
    "images",
    "metrics",
    "networks",
    "pictures/tile_sheet.py",
    "training",
)
EXPLAINER_CODE = (*DETECTOR_CODE, "explainers", "pictures/class_colours.py")
NIGHT_CODE = (*EXPLAINER_CODE, "evidence/rows.py", "models/judges", "models/donors.py", "work/night/work.py")
PROBE_CODE = (*EXPLAINER_CODE, "work/probe")
GENERATOR_CODE = (
    *EXPLAINER_CODE,
    "models/judges/halves.py",
    "work/week/explainer_guidance.py",
    "work/week/explainer_training.py",
)

# What the code above imports and no digest names, with the reason why a change of it changes no answer. What these
# import in turn is not looked at.
NOT_HASHED = {
    "cards.py": "refuses a card that cannot be, and changes nothing of one that can",
    "errors.py": "words for people",
    "progress.py": "words for people",
    "plugins.py": "finds methods by name, whose code a lineage names by package and version or by these folders",
    "digests.py": "names bytes; another name for the same bytes shows as a change of data, weights or parameters",
    "lineage.py": "says what an answer follows from",
    "settings": "reads params.yaml, whose values are in every key and lineage",
    "pictures/plots.py": "figures for people, in no row",
    "pictures/counterfactual_sheet.py": "samples of a training, in no row",
    "datasets/quality.py": "refuses rows, and changes none",
    "evidence/store.py": "keeps rows; `audit verify` compares what it kept",
    "evidence/tables.py": "columns and their types, which a row names by its schema_version",
    "models/judges/__init__.py": "names of the modules beside it",
    "models/registry.py": "finds models, whose files a lineage names by sha256",
    "models/tags.py": "finds models, whose files a lineage names by sha256",
    "models/versions.py": "finds models, whose files a lineage names by sha256",
    "work/night/plan.py": "says which images by which model and explainer, all of which a row names",
    "project.py": "opens what is there; settings, models and the device stand in a key or lineage",
    "work/week/order.py": "says which settings and data, all of which the key of a training names",
    "work/week/train.py": "calls the fit of a detector with what its order says",
}

_PAUSES_S = (0.2, 0.2, 0.5, 1.0, 2.0)  # DVC writes the file of a hundred data sets in less than the first
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "xadflow")


@dataclass(frozen=True)
class RunIdentity:
    """Which code, data, parameters, model and libraries a row follows from.

    `commit` is the git commit with "+dirty" when tracked files differ from it, "" outside git; `data` maps DVC stages
    to the md5 of their outputs; `device`, `threads` and `dtype` are what the arithmetic ran on.
    """

    commit: str
    code: str
    data: Mapping[str, str]
    parameters: str
    model_name: str
    model_version: int
    weights: str
    seed: int
    device: str
    threads: int
    dtype: str = "float32"
    libraries: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Hex sha256 of the identity."""
        return sha256_json(asdict(self))

    def to_json(self, **batch: object) -> str:
        """Sorted JSON for the `lineage` column; `batch` adds what belongs to the row: its batches and its explainer."""
        return json.dumps({**asdict(self), **batch}, sort_keys=True, separators=(",", ":"))


def git_commit(project: Path) -> str:
    """The commit checked out in `project`, "+dirty" appended when tracked files differ; "" when it is no
    git checkout.
    """
    head = _git(project, "rev-parse", "HEAD")
    if not head:
        return ""
    return head + ("+dirty" if _git(project, "status", "--porcelain", "--untracked-files=no") else "")


def _git(project: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(project), *words], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def dvc_hashes(project: Path, dataset: str) -> dict[str, str]:
    """md5 of the outputs of a data set's stages, from dvc.lock: {"images": ..., "manifest": ...}; {} when not built.

    DVC writes the file in place, so that whoever reads beside another `dvc repro` can meet half of it. What is asked
    for is taken when it is there whole; what is not there is looked for again, until the file is whole and has not
    changed. Raises WorkFailed when it stays broken.
    """
    before: str | None = None
    broken = "it changes all the time"
    for pause in (*_PAUSES_S, 0.0):
        try:
            text = (project / "dvc.lock").read_text()
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError as err:
            text, broken = "", str(err)
        try:
            found = _hashes(text, dataset)
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as err:
            broken = " ".join(str(err).split())[:200]
        else:
            if found.keys() == {"images", "manifest"} or text == before:
                return found
        before = text
        time.sleep(pause)
    raise WorkFailed(
        "dvc.lock cannot be read", seen=broken, next_step="run `git checkout dvc.lock`, then `dvc repro` to bring it up"
    )


def _hashes(text: str, dataset: str) -> dict[str, str]:
    """What a text of dvc.lock says of a data set. Raises what a text raises that is none, or not whole."""
    if not text.endswith("\n"):
        raise KeyError("its last line is not whole")
    stages = yaml.safe_load(text)["stages"]
    found = {}
    for stage in ("images", "manifest"):
        for out in stages.get(f"{stage}@{dataset}", {"outs": ()})["outs"]:
            found[Path(out["path"]).name.removesuffix(".parquet")] = str(out["md5"])
    return found


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a number."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@cache
def code_digest(*parts: str) -> str:
    """Hex sha256 over the package's source files below the given parts, e.g. ("detectors", "defects/drawn.py")."""
    root = Path(xadflow.__file__).parent
    files: list[Path] = []
    for part in parts:
        path = root / part
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    content = b"".join(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() for file in sorted(files))
    return sha256_bytes(content)
