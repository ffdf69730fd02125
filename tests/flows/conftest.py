"""One small project of its own, with its own DVC repository, MLflow store, tables and Prefect server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

PROJECT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's own files (not its data), a git and DVC repository of its own."""
    root = tmp_path_factory.mktemp("plant") / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml", "prefect.yaml", "pyproject.toml", "README.md", ".dvcignore"):
        if (PROJECT / name).is_file():
            shutil.copy(PROJECT / name, root / name)
    for name in ("src", "flows", "tasks"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / "data").mkdir()
    shutil.copy(PROJECT / "data" / ".gitignore", root / "data" / ".gitignore")
    (root / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", root / ".dvc" / "config")
    (root / ".gitignore").write_text("var/\n")
    params = root / "params.yaml"  # fewer explanations for the gate than in use: they are most of a small project's time
    params.write_text(params.read_text().replace("explained: 48 ", "explained: 6 "))
    for words in (("init", "-q"), ("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start")):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


@pytest.fixture(scope="session")
def environment(project: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "XADFLOW_"))}
    return {**kept, "XADFLOW_PROJECT": str(project), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


@pytest.fixture(scope="session")
def xadflow(project: Path, environment: dict[str, str]) -> Run:
    """Run the command as a user does: a child process in the project's folder."""

    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "xadflow", *words], cwd=project, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, f"xadflow {' '.join(words)} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def screws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder in MVTec-AD layout: grey and RGB, mixed sizes, masks, one 16-bit image and one broken file.

    The pictures are crops of a real gravel texture; the defects are painted, so their masks are exact.
    """
    root = tmp_path_factory.mktemp("users") / "screws"
    gravel, rng = data.gravel(), np.random.default_rng(0)

    def crop(low: int, high: int) -> np.ndarray:
        side = int(rng.choice([96, 112, 128]))
        top, left = int(rng.integers(low, high - side)), int(rng.integers(0, 512 - side))
        return gravel[top : top + side, left : left + side].copy()

    def save(pixels: np.ndarray, name: str, number: int) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([pixels] * 3, -1) if number % 3 == 0 else pixels).save(path)

    for number in range(70):
        save(crop(0, 300), f"train/good/{number:03d}.png", number)
    for number in range(24):
        save(crop(300, 512), f"test/good/{number:03d}.png", number)
    for number in range(24):
        pixels = crop(300, 512)
        mask = np.zeros_like(pixels)
        y, x = rng.integers(16, pixels.shape[0] - 40, 2)
        mask[y : y + 22, x : x + 22] = 255
        pixels[mask > 0] = 255 if number % 2 else 0
        save(pixels, f"test/scratch/{number:03d}.png", number)
        (root / "ground_truth/scratch").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / f"ground_truth/scratch/{number:03d}_mask.png")
    Image.fromarray(crop(0, 300).astype(np.uint16) * 257).save(root / "train/good/deep.png")
    (root / "train/good/broken.png").write_bytes((root / "train/good/000.png").read_bytes()[:200])
    return root
