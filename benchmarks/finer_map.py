"""Where FCDD's heatmap comes from, and what that costs: `python -m benchmarks.finer_map [--quick]`.

The default detector has two maps: the one whose cells are pooled to the score (stages 4, 5, 6, cells of 16 px), which
was the heatmap too until `map_stages` came, and the one of stages 2 and 3 (cells of 8 px). One fit has both, so
*before* and *after* are read off the same detector. Pixel AUROC and AUPRO on the textures, easy and middle rung, no
known defects, three training seeds; intervals of the paired difference: bootstrap over test images. The third row is
the finer map before its head has learned anything: the Mahalanobis distance of each cell.

Chosen on brick, easy rung, one seed, the test images in sight: stages 2 and 3 among (1), (2), (3), (4), (5), (2,3),
without the score's map. Grass, gravel and the middle rung were looked at, one seed, after that, and changed nothing.

Each cell (texture, seed) is kept in var/bench-finer-map/ and is not measured twice while settings and code are the
same: stop it and start it again as you like.

Speed: images a second of `score` at 128 px, two threads, 32 a batch, the arms in turns; and of its gradient.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from skimage import data as bundled
from torch import Tensor

from benchmarks.kit.models import fitted
from benchmarks.study import Study, ratios, turns
from benchmarks.textures import BOOTSTRAP, TEXTURES, Measured, Texture, figures_of, measured, texture_of, without_known
from xadflow.detectors import TrainingData
from xadflow.detectors.fcdd.cell_maps import CellMap
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.detectors.losses import pooled

RUNGS = ("easy", "middle")
BEFORE, AFTER, UNTRAINED = "the score's map (before)", "stages 2 and 3 (after)", "stages 2 and 3, untrained"
SIDE, BATCH, ROUNDS = 128, 32, 7
SLOWER_AT_MOST = 1.3
STUDY = Study("finer-map", own=("finer_map.py", "textures.py"))
Cells = dict[tuple[str, str, str, int], Measured]  # rung, texture, row, seed


def main() -> None:
    """Measure, print and write benchmarks/results/finer-map.json."""
    seeds_of = {"type": int, "default": 3, "help": "trainings of each texture; default 3"}
    given = STUDY.start(__doc__, "brick, one seed", seeds=seeds_of)
    textures, seeds = (TEXTURES[:1], range(1)) if given.quick else (TEXTURES, range(given.seeds))
    found = STUDY.measure(
        [(name, seed) for seed in seeds for name in textures], lambda of: STUDY.path(f"{of[0]}-{of[1]}.npz"), _measured
    )
    cells, spent, started = Cells(), sum(float(one["seconds"]) for one in found.values()), time.perf_counter()
    for (name, seed), one in found.items():
        for key, value in one.items():
            if key != "seconds":
                rung, title, figure = key.split("|")
                cells.setdefault((rung, name, title, seed), {})[figure] = value
    figures = {
        "textures": list(textures),
        "seeds": len(seeds),
        "rungs": {rung: table(cells, rung, textures, seeds) for rung in RUNGS},
        "speed": speed(1 if given.quick else ROUNDS),
        "slower_at_most": SLOWER_AT_MOST,
    }
    STUDY.write(figures, seeds, spent + time.perf_counter() - started)


def _measured(cell: tuple[str, int]) -> Measured:
    """The figures of each rung and row, of one texture and training."""
    name, seed = cell
    rungs = {rung: texture_of(name, rung) for rung in RUNGS}
    detector: Any = fitted(
        "fcdd", {}, seed, without_known(rungs[RUNGS[0]].data)
    )  # without known defects the rungs train alike
    return {
        f"{rung}|{title}|{figure}": value
        for rung, texture in rungs.items()
        for title, one in localisation(detector, texture, seed == 0).items()
        for figure, value in one.items()
    }


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

    def of(title: str) -> list[list[Measured]]:
        once = seeds[:1] if title == UNTRAINED else seeds
        return [[cells[rung, name, title, seed] for seed in once] for name in textures]

    found: dict[str, object] = {}
    for title in (BEFORE, AFTER, UNTRAINED):
        one = figures_of(of(title), of(BEFORE))
        kept = {key: one[key] for key in ("pixel_auroc", "aupro", "pixel_auroc_each", "aupro_each", "image_auroc")}
        found[title] = kept | {"gain": {**one["above_padim"], "draws": BOOTSTRAP}}  # type: ignore[dict-item]
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
    little = {"min_steps": 1, "epochs": 0.1, "synthetic_rounds": 1}
    arms: dict[str, Any] = {
        name: fitted("fcdd", {**little, "map_stages": stages}, 0, data)
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
        spent = turns({name: partial(work, detector) for name, detector in arms.items()}, rounds)
        figures[what] = {f"images_per_second_{name}": BATCH / median(own["clock"]) for name, own in spent.items()} | {
            "ratio": median(ratios(spent["after"], spent["before"])),
            "cpu_ratio": median(ratios(spent["after"], spent["before"], "cpu")),
        }
    torch.set_num_threads(threads)
    return figures


if __name__ == "__main__":
    main()
