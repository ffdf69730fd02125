"""A small real project in a folder of its own: a copy of ours without its data, and a user's folder of images for it.

The pictures are crops of a photographed gravel; the defects are painted, so their masks are exact. Shared by
tests/flows and benchmarks/faults.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

CHECKOUT = Path(__file__).parents[1]
_FILES = (
    "params.yaml",
    "dvc.yaml",
    "prefect.yaml",
    "pyproject.toml",
    "README.md",
    ".dvcignore",
    ".dvc/config",
    "data/.gitignore",
)
_SIDES = (96, 112, 128)
_UNSEEN = 300  # rows of the gravel from here on are test images


def make_project(root: Path, changes: Mapping[str, str]) -> None:
    """Copy the project's own files (not its data) to a new folder, a git and DVC repository of its own.

    `changes` maps text of params.yaml to other text. Raises ValueError when params.yaml does not have it.
    """
    for name in _FILES:
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, root / name)
    for name in ("src", "flows", "tasks"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / ".gitignore").write_text("var/\n")
    params = (root / "params.yaml").read_text()
    for old, new in changes.items():
        if old not in params:
            raise ValueError(f"params.yaml has no {old!r}")
        params = params.replace(old, new)
    (root / "params.yaml").write_text(params)
    commit(root)


def commit(root: Path) -> None:
    """Put everything there is into git, in a repository of the folder's own."""
    if not (root / ".git").is_dir():
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "state"], cwd=root, check=True)


def project_environment(project: Path) -> dict[str, str]:
    """What a fresh terminal in the project has: no variable of Prefect, MLflow or ours but the project's name."""
    ours = (
        "PREFECT_",
        "MLFLOW_",
        "XADFLOW_",
        "DVC_SITE_CACHE_DIR",
        "MPLCONFIGDIR",
    )  # quiet_environment may have run here
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "XADFLOW_PROJECT": str(project), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def python_path(*folders: Path) -> str:
    """PYTHONPATH of these folders, then of this checkout: a child runs the code of its parent, whatever is
    installed.
    """
    return os.pathsep.join(map(str, (*folders, CHECKOUT / "src", CHECKOUT)))


def draw_screws(root: Path) -> None:
    """A user's folder in MVTec-AD layout: grey and RGB, mixed sizes, masks, one 16-bit image and one broken file."""
    rng = np.random.default_rng(0)
    for number in range(70):
        _save(_crop(rng, 0, _UNSEEN), root / f"train/good/{number:03d}.png", number)
    for number in range(24):
        _save(_crop(rng, _UNSEEN, 512), root / f"test/good/{number:03d}.png", number)
    for number in range(24):
        pixels, mask = _scratched(_crop(rng, _UNSEEN, 512), rng, number)
        _save(pixels, root / f"test/scratch/{number:03d}.png", number)
        path = root / f"ground_truth/scratch/{number:03d}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    Image.fromarray(_crop(rng, 0, _UNSEEN).astype(np.uint16) * 257).save(root / "train/good/deep.png")
    (root / "train/good/broken.png").write_bytes((root / "train/good/000.png").read_bytes()[:200])


def draw_arrivals(folder: Path, count: int, seed: int) -> None:
    """New images of the same product, every second one with a painted defect, and one file that is no image."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = _crop(rng, _UNSEEN, 512)
        if number % 2:
            pixels, _ = _scratched(pixels, rng, number // 2)
        _save(pixels, folder / f"{number:03d}.png", number)
    (folder / "note.png").write_text("no image")


def _crop(rng: np.random.Generator, low: int, high: int) -> NDArray[np.uint8]:
    side = int(rng.choice(_SIDES))
    top, left = int(rng.integers(low, high - side)), int(rng.integers(0, 512 - side))
    return np.array(data.gravel()[top : top + side, left : left + side])


def _scratched(
    pixels: NDArray[np.uint8], rng: np.random.Generator, number: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture with a white or black square painted on it, and the square's mask."""
    mask = np.zeros_like(pixels)
    y, x = rng.integers(16, pixels.shape[0] - 40, 2)
    mask[y : y + 22, x : x + 22] = 255
    pixels[mask > 0] = 255 if number % 2 else 0
    return pixels, mask


def _save(pixels: NDArray[np.uint8], path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([pixels] * 3, -1) if number % 3 == 0 else pixels).save(path)
