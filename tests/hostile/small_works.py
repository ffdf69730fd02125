"""The small plant of these tests: its project, the user's folder ~/bolts, and how commands are run in it."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from tests.terminal import inside
from xadflow.cli.main import main

SIDE = 64
SMALL = {"stages": (2,), "min_steps": 12, "epochs": 1.0, "batch_normals": 16, "batch_synthetic": 16}
"""Settings of an FCDD that is fitted in about a second."""
PROGRESS = re.compile(r" \.\.\. (failed after )?[\d.]+ s( so far.*)?$")


@dataclass(frozen=True)
class Answer:
    """What one command said, with everything that differs between machines taken out, and its exit status."""

    status: int
    said: str


@dataclass(frozen=True)
class Plant:
    """The project, the user's home folder with ~/bolts in it, and the environment of a fresh terminal."""

    project: Path
    users: Path
    environment: Mapping[str, str]

    @property
    def bolts(self) -> Path:
        return self.users / "bolts"

    @property
    def state(self) -> Path:
        return self.project / "var"

    def child(self, command: str, **changes: str) -> Answer:
        """Run a command line as a user does, in a process of its own."""
        done = subprocess.run(
            self._words(command),
            cwd=self.project,
            env={**self.environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Answer(done.returncode, self.plain(done.stdout))

    def here(self, command: str, **changes: str) -> Answer:
        """Run a command line in this process, which has the heavy imports behind it; the environment is put back."""
        said = io.StringIO()
        with self.inside(**changes), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(self._words(command)[1:])
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        return Answer(status, self.plain(said.getvalue()))

    @contextlib.contextmanager
    def inside(self, **changes: str) -> Iterator[None]:
        """This process as if it were a terminal in the project: its environment and working folder."""
        with inside(self.project, {**self.environment, **changes}):
            yield

    def plain(self, said: str) -> str:
        """The text without paths of this machine, digests, run names, and lines of progress with their seconds."""
        said = said.replace(str(self.project), "~/plant").replace(str(self.users), "~")
        said = re.sub(r"\b[0-9a-f]{12,64}\b", "<digest>", said)
        return "\n".join(line.rstrip() for line in said.strip().splitlines() if not PROGRESS.search(line))

    def _words(self, command: str) -> list[str]:
        return [str(self.users / word[2:]) if word.startswith("~/") else word for word in shlex.split(command)]


def draw_bolts(root: Path) -> None:
    """60 normals to train on, 16 to test on and 16 with a painted square: crops of a photographed gravel."""
    rng, gravel = np.random.default_rng(0), data.gravel()

    def crop(low: int, high: int) -> np.ndarray:
        top, left = int(rng.integers(low, high - SIDE)), int(rng.integers(0, gravel.shape[1] - SIDE))
        return np.array(gravel[top : top + SIDE, left : left + SIDE])

    for folder in ("train/good", "test/good", "test/scratch", "ground_truth/scratch"):
        (root / folder).mkdir(parents=True)
    for number in range(60):
        Image.fromarray(crop(0, 300)).save(root / f"train/good/{number:03d}.png")
    for number in range(16):
        Image.fromarray(crop(300, 512)).save(root / f"test/good/{number:03d}.png")
        pixels, mask = crop(300, 512), np.zeros((SIDE, SIDE), np.uint8)
        y, x = rng.integers(4, SIDE - 24, 2)
        mask[y : y + 18, x : x + 18] = 255
        pixels[mask > 0] = 255
        Image.fromarray(pixels).save(root / f"test/scratch/{number:03d}.png")
        Image.fromarray(mask).save(root / f"ground_truth/scratch/{number:03d}_mask.png")
