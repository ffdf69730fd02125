"""Golden values: what kept models score, what every explainer says of a few images, and what a small training becomes.

`models/` holds a small saved model of every detector and one trained explainer, `values.json` and `values.npz` what
they gave. On the machine the values were made on (the `fingerprint` in values.json: processor, torch, libraries, one
thread) everything is equal bit for bit, digests of rows and of newly trained weights included. Digests of the code are
compared nowhere.

On another machine digests are left out, and floats may be apart by a share of the largest value of their kind. Each
limit is 3 times or more of the largest difference seen on one processor with its vector units switched off (ATen
`default` and `avx2`, oneDNN SSE4.1 and AVX2, one thread and two): kept models' scores and maps SCORED (seen 1e-5),
figures of rows FIGURES (seen 5e-3), scores and losses of a training done anew TRAINED (seen 5e-2), a p-value one rank.
Pictures may be apart by more than LEVELS on a share FEW of their values and by MEAN levels on average (seen: one level
on 0.1 % of one picture). The sparse search on `fcdd` takes another path from the first difference in a last bit on;
there the score may be apart by LOOSE_SCORE (seen 3e-3), the verdict is the same, and the two counterfactuals are nearer
to each other than to the image they change.

A change that is meant to change values writes them anew, and says why in its commit:

    XADFLOW_WRITE_GOLDEN=1 pytest tests/golden         values and contract, from the kept models
    XADFLOW_WRITE_GOLDEN=models pytest tests/golden    trains the kept models anew before
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden import makings

HERE = Path(__file__).parent
MODELS, VALUES, ARRAYS = HERE / "models", HERE / "values.json", HERE / "values.npz"
WRITE = os.environ.get("XADFLOW_WRITE_GOLDEN", "")
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "scikit-image", "safetensors", "pyarrow")

SCORED, FIGURES, TRAINED = 1e-3, 0.02, 0.2
RANK = 0.06  # one of 20 held-out normals
LEVELS, FEW, MEAN = 2, 0.01, 0.05
LOOSE, LOOSE_SCORE = "rows sparse fcdd", 0.02

ASKED = [(name, method) for name, several in makings.EXPLAINERS.items() for method, _ in several]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("XADFLOW_GOLDEN_THREADS", "1")))
    yield
    torch.set_num_threads(before)


def _fingerprint() -> dict[str, str]:
    """What decides the last bits of a number."""
    try:
        told = re.findall(r"^(model name|flags)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = dict(reversed(told))
    except OSError:
        processor = {}
    return {
        "processor": processor.get("model name", platform.processor()).strip(),
        "flags": hashlib.sha256(processor.get("flags", "").encode()).hexdigest()[:16],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in LIBRARIES},
    }


def _measures(models: Path) -> dict[str, Callable[[Path], makings.Found]]:
    """Everything that is measured, by its name in values.json."""
    found: dict[str, Callable[[Path], makings.Found]] = {}
    for method in makings.DETECTORS:
        found[f"scores {method}"] = lambda folder, method=method: makings.scored(method, models, folder)
        found[f"training {method}"] = lambda folder, method=method: makings.retrained(method, folder)
    for name, method in ASKED:
        found[f"rows {name} {method}"] = lambda folder, at=(name, method): makings.explained(*at, models, folder)
    found["training diverse"] = lambda folder: makings.retrained_generator(models, folder)
    found["pixels"] = lambda folder: ({"sha256": makings.pixels_of_files(folder)}, {})
    return found


MEASURES = _measures(MODELS)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The values kept, written first where that was asked for."""
    if WRITE:
        if WRITE == "models":
            makings.write_models(MODELS, tmp_path_factory.mktemp("models"))
        values: dict[str, Any] = {"fingerprint": _fingerprint()}
        arrays: dict[str, np.ndarray] = {}
        for name, measure in MEASURES.items():
            torch.manual_seed(0)
            values[name], more = measure(tmp_path_factory.mktemp("measured"))
            arrays |= more
        VALUES.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        np.savez_compressed(ARRAYS, **arrays)  # type: ignore[arg-type]
    with np.load(ARRAYS, allow_pickle=False) as stored:
        return json.loads(VALUES.read_text(encoding="utf-8")), dict(stored)


def _is_digest(name: str) -> bool:
    return name.endswith(("sha256", "digest")) or name == "bytes"


def _differences(old: Any, new: Any, relative: float, at: str = "") -> list[str]:
    """Places where two values differ by more than a share of the larger one, digests left out."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() != new.keys():
            return [f"{at}: {sorted(old.keys() ^ new.keys())} in one of them only"]
        return [
            found
            for name in old
            if not _is_digest(name)
            for found in _differences(
                old[name], new[name], RANK / max(old[name], RANK) if name == "p_value" else relative, f"{at}/{name}"
            )
        ]
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [f"{at}: {len(old)} before, {len(new)} now"]
        if old and all(isinstance(value, float) for value in [*old, *new]):
            apart = np.abs(np.array(old) - np.array(new)).max()
            return [f"{at}: apart by {apart:.3g}: {old}, {new}"] if apart > relative * np.abs(old).max() else []
        return [
            found
            for place, pair in enumerate(zip(old, new, strict=True))
            for found in _differences(*pair, relative, f"{at}/{place}")
        ]
    if isinstance(old, float) and isinstance(new, float):
        return [] if abs(old - new) <= relative * max(abs(old), 1e-3) else [f"{at}: {old!r} before, {new!r} now"]
    return [] if old == new else [f"{at}: {old!r} before, {new!r} now"]


def _far(name: str, old: np.ndarray, new: np.ndarray) -> list[str]:
    """A complaint where two arrays are further apart than another processor explains."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return [f"{name}: {old.dtype} {old.shape} before, {new.dtype} {new.shape} now"]
    apart = np.abs(old.astype(np.float64) - new.astype(np.float64))
    if old.dtype == np.uint8:
        share, mean = float((apart > LEVELS).mean()), float(apart.mean())
        return (
            [f"{name}: apart by {mean:.3g} levels on average, {share:.2%} by more than {LEVELS}"]
            if (share > FEW or mean > MEAN)
            else []
        )
    most = SCORED * float(np.abs(old).max())
    return [f"{name}: apart by {apart.max():.3g}, allowed {most:.3g}"] if apart.max() > most else []


def _loose(old: Any, new: Any, old_arrays: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> list[str]:
    """As the two above for the rows of LOOSE: what does not hang on the path of the search."""

    def steady(rows: Any) -> Any:
        return {
            number: [
                row["score"],
                row["is_anomaly"],
                row["explainer_version"],
                [
                    [made[key] for key in ("concept", "score", "is_normal", "donor_id")]
                    for made in row["counterfactuals"]
                ],
            ]
            for number, row in rows.items()
        }

    found = _differences(steady(old), steady(new), LOOSE_SCORE)
    images = makings.asked(LOOSE.split()[-1]).numpy()
    for key, value in arrays.items():
        if "counterfactual" not in key:
            found += _far(key, old_arrays[key], value)
            continue
        before, image = old_arrays[key].astype(int), images[int(key.split("/")[1])].astype(int)
        apart, changed = np.abs(before - value).sum(), np.abs(before - image).sum()
        if apart > changed:
            found.append(f"{key}: {apart} grey levels apart in all, more than the {changed} it changed")
    return found


@pytest.mark.parametrize("name", MEASURES)
def test_values_are_those_kept(name: str, golden: tuple[dict[str, Any], dict[str, np.ndarray]], tmp_path: Path) -> None:
    kept, kept_arrays = golden
    new, arrays = MEASURES[name](tmp_path)
    new = json.loads(json.dumps(new))
    assert all(np.isfinite(value).all() for value in arrays.values())
    if kept["fingerprint"] == _fingerprint() or name == "pixels":
        assert new == kept[name]
        assert all(np.array_equal(value, kept_arrays[key]) for key, value in arrays.items())
        return
    if name == LOOSE:
        assert _loose(kept[name], new, kept_arrays, arrays) == []
        return
    differences = _differences(
        kept[name], new, {"scores": SCORED, "rows": FIGURES, "training": TRAINED}[name.split()[0]]
    )
    differences += [found for key, value in arrays.items() for found in _far(key, kept_arrays[key], value)]
    assert differences == []


REGISTERED = {"xadflow.detectors": makings.DETECTORS, "xadflow.explainers": makings.EXPLAINERS}


@pytest.mark.parametrize("group", REGISTERED)
def test_every_registered_method_has_golden_values(group: str) -> None:
    ours = [entry.name for entry in entry_points(group=group) if entry.dist and entry.dist.name == "xadflow"]
    assert sorted(ours) == sorted(REGISTERED[group])
