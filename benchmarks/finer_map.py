"""Where FCDD's heatmap comes from, and what that costs: `python -m benchmarks.finer_map [--quick]`.

The default detector has two maps: the one whose cells are pooled to the score (stages 4, 5, 6, cells of 16 px), which
was the heatmap too until `map_stages` came, and the one of stages 2 and 3 (cells of 8 px). One fit has both, so
*before* and *after* are read off the same detector. Pixel AUROC and AUPRO on the textures, easy and middle rung, no
known defects, three training seeds; intervals of the paired difference: bootstrap over test images. The third row is
the finer map before its head has learned anything: the Mahalanobis distance of each cell.

Chosen on brick, easy rung, one seed, the test images in sight: stages 2 and 3 among (1), (2), (3), (4), (5), (2,3),
(1,2), (2,3,4), (1,2,3), (2,4), each untrained and some trained at image or pixel level, added to, multiplied with or
without the score's map. Grass, gravel and the middle rung were looked at, one seed, after that, and changed nothing.

Each cell (texture, seed) is kept in var/bench-finer-map/ and is not measured twice while settings and code are the
same: stop it and start it again as you like.

Speed: images a second of `score` at 128 px, two threads, 32 a batch, the arms in turns; and of its gradient.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from skimage import data as bundled
from torch import Tensor

from benchmarks.results import write_results
from benchmarks.textures import BOOTSTRAP, TEXTURES, Measured, Texture, measured, texture_of
from xadflow.detectors import FitRun, TrainingData
from xadflow.detectors.fcdd.cell_maps import CellMap
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.detectors.losses import pooled
from xadflow.digests import sha256_file, sha256_json
from xadflow.lineage import code_digest
from xadflow.settings import Home

RUNGS = ("easy", "middle")
BEFORE, AFTER, UNTRAINED = "the score's map (before)", "stages 2 and 3 (after)", "stages 2 and 3, untrained"
SIDE, BATCH, ROUNDS = 128, 32, 7
SLOWER_AT_MOST = 1.3
CODE = (
    "detectors",
    "networks",
    "training",
    "metrics/localisation.py",
    "defects/drawn.py",
    "datasets/sources/textures.py",
)
Cells = dict[tuple[str, str, str, int], Measured]  # rung, texture, row, seed


def main() -> None:
    """Measure, print and write benchmarks/results/finer-map.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="brick, one seed")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each texture; default 3")
    arguments = parser.parse_args()
    quick = arguments.quick
    textures, seeds = (TEXTURES[:1], range(1)) if quick else (TEXTURES, range(arguments.seeds))
    state = Home.find().state / "bench-finer-map"
    cells, spent = Cells(), 0.0
    for seed in seeds:
        for name in textures:
            seconds, found = _cell(state, name, seed)
            spent += seconds
            for (rung, title), one in found.items():
                cells[rung, name, title, seed] = one
                print(
                    f"{name:<7} {rung:<7} seed {seed}  {title:<26} pixel {one['pixel_auroc']:.3f}  "
                    f"aupro {one['aupro']:.3f}  image {one['image_auroc']:.3f}",
                    flush=True,
                )
    started = time.perf_counter()
    figures = {
        "textures": list(textures),
        "seeds": len(seeds),
        "rungs": {rung: table(cells, rung, textures, seeds) for rung in RUNGS},
        "speed": speed(1 if quick else ROUNDS),
        "slower_at_most": SLOWER_AT_MOST,
    }
    write_results("finer-map", figures, seeds=seeds, seconds=spent + time.perf_counter() - started, quick=quick)


def _cell(state: Path, name: str, seed: int) -> tuple[float, dict[tuple[str, str], Measured]]:
    """Seconds, and the figures of each rung and row, of one texture and training; kept in a file."""
    what = {"code": code_digest(*CODE), "bench": sha256_file(Path(__file__))}
    kept = state / f"{name}-{seed}-{sha256_json(what)[:16]}.npz"
    if not kept.is_file():
        begun = time.perf_counter()
        rungs = {rung: texture_of(name, rung) for rung in RUNGS}
        detector = fitted(rungs[RUNGS[0]].data, seed)  # without known defects the rungs train alike
        rows = {rung: localisation(detector, texture, seed == 0) for rung, texture in rungs.items()}
        found = {
            f"{rung}|{title}|{figure}": value
            for rung in RUNGS
            for title, one in rows[rung].items()
            for figure, value in one.items()
        }
        state.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.npz")
        np.savez(partial, seconds=np.asarray(time.perf_counter() - begun), **found)  # type: ignore[arg-type]
        partial.replace(kept)
    cells: dict[tuple[str, str], Measured] = {}
    with np.load(kept) as stored:
        for key in stored.files:
            if key != "seconds":
                rung, title, figure = key.split("|")
                cells.setdefault((rung, title), {})[figure] = stored[key]
        return float(stored["seconds"]), cells


def fitted(data: TrainingData, seed: int, **settings: object) -> FCDD:
    """The default detector on normals alone."""
    alone = TrainingData(data.normals, data.val_normals, data.known[:0], None, data.calibration_defects)
    detector = FCDD(**settings)
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(alone, FitRun(Path(folder), seed, 0.05, "cpu"))
    return detector


def localisation(detector: FCDD, texture: Texture, with_untrained: bool) -> dict[str, Measured]:
    """Figures of each row on the test images of one rung; the image scores are the detector's in all of them."""
    own = detector.fitted
    finer = own.finer
    assert finer is not None

    def row(cell_map: CellMap, cells: Callable[[Tensor], Tensor]) -> Measured:
        def score(images: Tensor) -> tuple[Tensor, Tensor]:
            found = own.trunk.stage_features(images)
            heat = cell_map.pixels(cells(own.trunk.joined(found, cell_map.stages)))
            return pooled(own.cells(own.trunk, found), detector.settings.pool()), heat

        return measured(texture, score)

    rows = {BEFORE: row(own, own.head), AFTER: row(finer, finer.head)}
    if with_untrained:  # the same for every seed: nothing in it is drawn
        rows[UNTRAINED] = row(finer, lambda features: finer.head.whitening(features).square().mean(dim=-1).sqrt())
    return rows


def table(cells: Cells, rung: str, textures: Sequence[str], seeds: Sequence[int]) -> dict[str, object]:
    """Of one rung, for each row: means over textures and seeds, each texture's, and the difference to *before*."""

    def of(title: str, name: str) -> list[Measured]:
        return [cells[rung, name, title, seed] for seed in (seeds[:1] if title == UNTRAINED else seeds)]

    def each(title: str, figure: str) -> list[float]:
        return [float(np.mean([one[figure] for one in of(title, name)])) for name in textures]

    drawn = {
        title: np.mean([one["draws"] for name in textures for one in of(title, name)], axis=0)
        for title in (BEFORE, AFTER, UNTRAINED)
    }
    found: dict[str, object] = {}
    for title, draws in drawn.items():
        pixel, overlap = each(title, "pixel_auroc"), each(title, "aupro")
        low, high = np.quantile(draws - drawn[BEFORE], (0.025, 0.975))
        found[title] = {
            "pixel_auroc": float(np.mean(pixel)),
            "aupro": float(np.mean(overlap)),
            "pixel_auroc_each": pixel,
            "aupro_each": overlap,
            "image_auroc": float(np.mean(each(title, "image_auroc"))),
            "gain": {
                "mean": float(np.mean(pixel) - np.mean(each(BEFORE, "pixel_auroc"))),
                "low": float(low),
                "high": float(high),
                "draws": BOOTSTRAP,
            },
        }
    return found


def speed(rounds: int) -> dict[str, object]:
    """Images a second of both detectors, arms in turns, medians; how little they have learned does not matter."""
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(2)
    wall = torch.from_numpy(bundled.brick().copy())
    crops = torch.stack(
        [wall[top : top + SIDE, left : left + SIDE] for top in range(0, 384, 64) for left in range(0, 384, 64)]
    )
    data = TrainingData(crops[:12, None], crops[12:, None], crops[:0, None], None, crops[:0, None])
    arms = {
        name: fitted(data, 0, map_stages=stages, min_steps=1, epochs=0.1, synthetic_rounds=1)
        for name, stages in (("before", ()), ("after", (2, 3)))
    }
    images = torch.rand(BATCH, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def score(detector: FCDD) -> None:
        with torch.no_grad():
            detector.score(images)

    def gradient(detector: FCDD) -> None:
        inputs = images.clone().requires_grad_()
        detector.score(inputs).image.sum().backward()

    figures: dict[str, object] = {"threads": 2, "batch": BATCH, "px": SIDE, "rounds": rounds, "load_average": load}
    for what, work in (("score", score), ("gradient", gradient)):
        figures[what] = _in_turns(arms, work, rounds)
        print(what, figures[what], flush=True)
    torch.set_num_threads(threads)
    return figures


def _in_turns(arms: Mapping[str, FCDD], work: Callable[[FCDD], None], rounds: int) -> dict[str, float]:
    """Images a second of each arm, and how much longer the second takes than the first: on the clock and of
    CPU time.
    """
    wall: dict[str, list[float]] = {name: [] for name in arms}
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, detector in arms.items():
            clock, spent = time.perf_counter(), time.process_time()
            for _ in range(3):
                work(detector)
            if turn:  # the first one warms up
                wall[name].append((time.perf_counter() - clock) / 3)
                cpu[name].append((time.process_time() - spent) / 3)
    first, second = arms
    return {
        **{f"images_per_second_{name}": BATCH / median(each) for name, each in wall.items()},
        "ratio": median([b / a for a, b in zip(wall[first], wall[second], strict=True)]),
        "cpu_ratio": median([b / a for a, b in zip(cpu[first], cpu[second], strict=True)]),
    }


if __name__ == "__main__":
    main()
