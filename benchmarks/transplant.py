"""Transplants beside other counterfactuals and beside controls: `python -m benchmarks.transplant [--quick]`.

For each data set, detector and training the flagged test anomalies are made normal by each arm
(transplant_kit/arms.py), at most 200 of them in an order that is the same for all trainings. Judges of other kinds,
which explain nothing, say whether the result is normal: PaDiM on MobileNetV2, and a small network trained from nothing
on drawn defects, with brightness and without. They were fitted on the half of the train normals that gives no donors,
and are asked of images alone that they flag themselves.

What was visible while choosing: the settings of the transplants are the product's defaults, which were looked at on
ELPV's 60 reserved defects and on val normals; judges, arms and counts of this page were fixed before a test image was
explained, but for the judge without brightness: the first 100 test images had shown that the other network goes by it.
Nothing else was chosen on test images.

Cells are kept in var/bench-transplant and not made twice while settings and code are the same. The results file is
written after every round of cells, so a run that is stopped leaves what it has, and says what it lacks.

    python -m benchmarks.transplant --sheet docs/images/transplants.png     the README's picture
    python -m benchmarks.transplant --speed                                 the figures of speed and memory alone
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import RESULTS
from benchmarks.transplant_kit.arms import ALL, ARMS, MAIN, Arm, Task
from benchmarks.transplant_kit.cells import CHUNK, chunks, finish, task_of
from benchmarks.transplant_kit.curve import CURVE_PICTURE, has_curve, write_curve
from benchmarks.transplant_kit.detectors import HSC, JUDGES, NETWORK_JUDGE, STUDY, folder_of, judge_folder
from benchmarks.transplant_kit.figures import curve_of, detectors_of, row_of
from benchmarks.transplant_kit.sets import BLOCKS, CLOTHES, COLOURED, ELPV, SMALL_CELLS, TEXTURES
from benchmarks.transplant_kit.sheet import ROWS, write_sheet
from benchmarks.transplant_kit.speed import speed_figures
from xadflow.errors import XadflowError
from xadflow.explainers.transplant import TransplantSettings

SEEDS = (0, 1, 2)
IMAGES = RESULTS.parents[1] / "docs" / "images"
FIRST = (MAIN, "nearest normal, whole image", "random region of the same area, same donor", "sparse")
TARGETS = {
    "valid": 0.99,
    "transfer": 0.85,
    "region": 0.40,
    "region aimed at": 0.25,
    "frechet": 60.0,
    "iou": 0.25,
    "iou of the cut": 2.0,
    "images_per_second": 5.0,
}


@dataclass(frozen=True)
class Group:
    """One block of the table: sets that are measured as one, and which arms beside the first four make sense there."""

    title: str
    sets: tuple[str, ...]
    method: str
    arms: tuple[str, ...]


NOT_FCDD = ("transplant for a detector of drawn weights",)  # that control is an FCDD
EVERY = tuple(arm.title for arm in ARMS)
FEW = (*FIRST, "autoencoder", "transplant, donors from the judges' normals")
GROUPS = (
    Group("ELPV peer-0, fcdd", (ELPV,), "fcdd", EVERY),
    Group(
        "Textures (brick, grass, gravel), fcdd",
        TEXTURES,
        "fcdd",
        tuple(one for one in EVERY if one != "autoencoder" and not one.startswith("transplant, target")),
    ),
    Group("ELPV blocks-0, fcdd", (BLOCKS,), "fcdd", FEW),
    Group("ELPV peer-0 at 64 px, hsc", (SMALL_CELLS,), "hsc", tuple(one for one in EVERY if one not in NOT_FCDD)),
    Group("Fashion-MNIST dress, hsc", (CLOTHES,), "hsc", FEW),
    Group("Coloured-MNIST, hsc", (COLOURED,), "hsc", FEW),
)
QUICK_GROUPS = (Group("Textures (brick), fcdd", TEXTURES[:1], "fcdd", FIRST),)
QUICK = 20  # images


def main() -> None:
    """Do what the options say; without any, measure what is missing and write benchmarks/results/transplant.json."""
    given = STUDY.start(
        __doc__,
        "one seed and 20 images of one texture, the first four arms",
        kept={"action": "store_true", "help": "make nothing: figures of the cells that are there"},
        sheet={"type": Path, "help": "write the picture of textures there, and nothing else"},
        rows={"type": int, "default": ROWS, "help": "images of the picture"},
        speed={"action": "store_true", "help": "measure speed and memory alone, and keep the other figures"},
        only={"default": "", "help": "make only blocks with this in their title; figures are of all that is kept"},
    )
    if given.speed:
        STUDY.write({**_written(), "speed": speed_figures()}, SEEDS)
        return
    torch.set_num_threads(1)
    if given.sheet:
        write_sheet(given.sheet, given.rows)
        return
    groups, seeds, most = (QUICK_GROUPS, SEEDS[:1], QUICK) if given.quick else (GROUPS, SEEDS, ALL)
    if not given.kept:
        measure([group for group in groups if given.only in group.title], seeds, most, kept_only=False)
    tasks = measure(groups, seeds, most, kept_only=True)
    figures = {
        "groups": {group.title: found for group in groups if (found := figures_of(tasks[group.title]))},
        "settings": described(groups),
        "images": most,
    }
    STUDY.write({**_written(given.quick), **figures}, seeds)
    if has_curve(figures) and not given.quick:
        write_curve(figures, IMAGES / CURVE_PICTURE)


Tasks = dict[str, dict[int, list[Task]]]  # title of a group, seed, one a set


def measure(groups: Sequence[Group], seeds: Sequence[int], most: int, *, kept_only: bool) -> Tasks:
    """Make every cell that is missing, what matters most first; the tasks of what there is. `kept_only`:
    make nothing.
    """
    tasks: Tasks = {group.title: {} for group in groups}
    left_out: set[str] = set()
    for group, seed, arm, number in in_order(groups, seeds, most):
        if group.title in left_out or (kept_only and not _is_trained(group, seed)):
            continue
        begun, own = time.process_time(), tasks[group.title]
        try:
            if seed not in own:
                own[seed] = [task_of(name, group.method, seed, most) for name in group.sets]
            for task in own[seed]:
                for chunk in list(chunks(arm, task))[number : number + 1]:
                    if not kept_only:
                        finish(arm, chunk)
        except XadflowError as err:
            STUDY.note(f"{group.title}: left out, {err}")
            left_out.add(group.title)
        spent = time.process_time() - begun
        if spent > 1.0 and not kept_only:
            STUDY.note(f"{group.title}, seed {seed}: {arm.title}, from image {number * CHUNK} on, {spent:.0f} s of CPU")
    return tasks


def in_order(groups: Sequence[Group], seeds: Sequence[int], most: int) -> list[tuple[Group, int, Arm, int]]:
    """Group, seed, arm and which CHUNK of its images, those that matter most first: other seeds, sets, arms, images
    cost.
    """
    every = [
        (group, seed, arm, number)
        for group in groups
        for seed in seeds
        for arm in ARMS
        if arm.title in group.arms
        for number in range(-(-min(arm.most, most) // CHUNK))
    ]
    return sorted(
        every, key=lambda one: groups.index(one[0]) + 2 * (one[1] > 0) + 3 * (one[2].title not in FIRST) + 2 * one[3]
    )


def figures_of(tasks: Mapping[int, Sequence[Task]]) -> dict[str, Any]:
    """Figures of one block: detectors, a row an arm, the curve; nothing where nothing is kept."""
    rows = {arm.title: row for arm in ARMS if (row := row_of(arm, tasks))} if tasks else {}
    if MAIN not in rows:
        return {}
    return {
        "detectors": detectors_of(tasks),
        "rows": rows,
        "curve": curve_of(tasks),
        "seeds": sorted(tasks),
        "sets": [task.set for task in next(iter(tasks.values()))],
    }


def described(groups: Sequence[Group]) -> dict[str, Any]:
    """Settings for the results file."""
    return {
        "transplant": TransplantSettings().model_dump(mode="json"),
        "hsc": HSC,
        "network_judge": NETWORK_JUDGE,
        "arms": {arm.title: {"of": arm.of, "most": arm.most, "settings": dict(arm.settings)} for arm in ARMS},
        "targets": TARGETS,
        "blocks": [group.title for group in groups],
        "explainer_commit": _last_change("src/xadflow/explainers/transplant"),
        "detector_commit": _last_change("src/xadflow/detectors"),
    }


def _last_change(path: str) -> str:
    """The last commit that touched a folder: whose code the cells that are kept were made by."""
    asked = ["git", "log", "-1", "--format=%h", "--", path]
    told = subprocess.run(asked, cwd=RESULTS.parents[1], capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def _is_trained(group: Group, seed: int) -> bool:
    folders = [folder_of(name, group.method, seed) for name in group.sets]
    folders += [judge_folder(name, judge) for name in group.sets for judge in JUDGES]
    return all(folder.is_dir() for folder in folders)


def _written(quick: bool = False) -> dict[str, Any]:
    """Figures of the results file that is there: speed is measured in a run of its own."""
    path = RESULTS / f"{STUDY.name}{'-quick' if quick else ''}.json"
    found: dict[str, Any] = json.loads(path.read_text())["figures"] if path.is_file() else {}
    return found


if __name__ == "__main__":
    main()
