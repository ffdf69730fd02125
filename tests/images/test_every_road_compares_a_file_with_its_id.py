"""Every road by which an admitted file becomes pixels compares its bytes with the image_id, and reads the bits that the
detector was trained on: loading, training, evaluation, leaks, donors, nights, replays, judges, files handed out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xadflow.datasets.leaks import look_for_leaks
from xadflow.datasets.loading import load_images, training_data
from xadflow.datasets.manifest import ManifestRow, Split, read_manifest, write_manifest
from xadflow.detectors.base import Scores, as_seen_by
from xadflow.digests import sha256_bytes, sha256_file
from xadflow.errors import BadImage
from xadflow.evidence.replay.sources import Sources
from xadflow.evidence.transplants import donor_files
from xadflow.explainers.transplant.bank import DonorList
from xadflow.models.donors import open_bank
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.work.night.plan import PlannedImage
from xadflow.work.night.work import ShardFigures, _decode
from xadflow.work.week import register
from xadflow.work.week.donors import choose_donors, mean_map
from xadflow.work.week.evaluate import score_split

SIDE, BITS = 16, 12
PARTS = {"train": 4, "val": 2, "known": 2, "test": 2}
PARAMS = """\
seed: 0
device: cpu
catalogue: [plates]
datasets: {plates: {source: folder, size_px: 16, channels: 1, bit_depth: %d}}
detectors: {hsc: {method: hsc}}
explainers: {heatmap: {}}
retrain: {datasets: [plates], detectors: [hsc]}
explain: {datasets: [plates], explainers: [heatmap]}
demo: {dataset: plates}
"""
Pixels = Mapping[str, np.ndarray]


class Seeing:
    """Stands for a detector that was trained on 12 bits."""

    input_shape, bit_depth = (1, SIDE, SIDE), BITS
    calibration = SimpleNamespace(threshold=np.inf)

    def score(self, images: torch.Tensor) -> Scores:
        return Scores(images.mean((1, 2, 3)))


DETECTOR: Any = Seeing()


class Site:
    """A project with one data set of 12 bits, whose setting may say otherwise, and the folder of a detector."""

    def __init__(self, root: Path, bits: int = BITS) -> None:
        (root / "params.yaml").write_text(PARAMS % bits)
        (root / "dvc.yaml").touch()
        self.home = Home(root, root / "var")
        self.project = Project(self.home)
        folder = self.home.dataset("plates")
        (folder / "images").mkdir(parents=True)
        self.levels: dict[str, np.ndarray] = {}
        rows = []
        for split, count in PARTS.items():
            for number in range(count):
                path = folder / "images" / f"{split}-{number}.png"
                values = np.random.default_rng(len(rows)).integers(0, 1 << BITS, (SIDE, SIDE)).astype(np.uint16)
                Image.fromarray(values).save(path)
                label = int(split == "known" or (split == "test" and number == 1))
                row = ManifestRow(
                    sha256_file(path), f"images/{path.name}", split, label, "c", None, None, SIDE, SIDE, "s", "l"
                )
                rows.append(row)
                self.levels[row.image_id] = (values >> (BITS - 8)).astype(np.uint8)
        write_manifest(folder / "manifest.parquet", rows)
        self.manifest = read_manifest(folder)
        self.detector = root / "detector"
        self.detector.mkdir()
        (self.detector / "detector.json").write_text('{"input_shape": [1, 16, 16], "bit_depth": 12}')
        DonorList(tuple(row.image_id for row in self.rows("train")), "none", True, 4, True).save(self.detector)

    def rows(self, *splits: str) -> list[ManifestRow]:
        return list(self.manifest.rows(*map(Split, splits)))

    @property
    def dataset(self) -> Any:
        return self.project.settings.dataset("plates")


def named(rows: list[ManifestRow], images: Any) -> Pixels:
    return dict(zip([row.image_id for row in rows], np.asarray(images)[:, 0], strict=True))


def loaded(site: Site) -> Pixels:
    return named(site.rows("test"), load_images(site.manifest, site.rows("test"), as_seen_by(DETECTOR, site.dataset)))


def evaluated(site: Site) -> Pixels:
    found = score_split(site.project, DETECTOR, site.manifest, "plates", Split.TEST)
    return named(list(found.rows), found.images)


def night(site: Site) -> Pixels:
    folder = site.manifest.folder.relative_to(site.home.project)
    shard = [
        PlannedImage(row.image_id, "project", f"{folder}/{row.path}", False, ()) for row in site.rows("test", "train")
    ]
    good, images = _decode(site.project, DETECTOR, shard, ShardFigures(0))
    return dict(zip([one.image_id for one in good], images[:, 0].numpy(), strict=True))


def replayed(site: Site) -> Pixels:
    sources = Sources(site.home, site.project.settings, None, None)  # type: ignore[arg-type]
    found = {}
    for row in site.rows("test"):
        made = {"image_path": f"data/plates/{row.path}", "image_id": row.image_id, "dataset": "plates"}
        if (pixels := sources.from_file(made, DETECTOR)) is not None:
            found[row.image_id] = pixels[0]
    return found


def donors(site: Site) -> Pixels:
    bank = open_bank(site.home, site.project.settings, site.detector, "plates")
    return {} if bank is None else dict(zip(bank.ids, bank.images[:, 0].numpy(), strict=True))


OF_A_DETECTOR: list[Callable[[Site], Pixels]] = [loaded, evaluated, night, replayed, donors]


def trained(site: Site) -> object:
    return training_data(site.manifest, site.dataset)


def trained_judge(site: Site) -> object:
    return training_data(site.manifest, site.dataset, normals={row.image_id for row in site.rows("train")})


def registered_judge(site: Site) -> object:
    """A file of split `known` that its figures are measured on; what comes after is not reached."""
    order = SimpleNamespace(saved=lambda home: site.detector, dataset="plates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "open_detector", lambda *_: DETECTOR)
        return register.register_judge(site.project, order, True)  # type: ignore[arg-type]


def donors_chosen(site: Site) -> object:
    return choose_donors(site.project, DETECTOR, site.manifest, "plates", 4)


def donors_mean_map(site: Site) -> object:
    return mean_map(site.project, DETECTOR, site.manifest, "plates")


def leaks(site: Site) -> object:
    return look_for_leaks(site.manifest, site.dataset)


def handed_out(site: Site) -> Pixels:
    row = {"dataset": "plates", "counterfactuals": [{"donor_id": one.image_id} for one in site.rows("train")]}
    return {one: np.zeros(0) for one in donor_files(site.home, [row], checked=True)}


ROADS: list[Callable[[Site], object]] = [
    *OF_A_DETECTOR,
    trained,
    trained_judge,
    registered_judge,
    donors_chosen,
    donors_mean_map,
    leaks,
    handed_out,
]
LEAVE_OUT = [night, replayed, donors, handed_out]
READS = (
    {trained: "train"}
    | {trained_judge: "train", donors: "train", donors_chosen: "train", handed_out: "train"}
    | {donors_mean_map: "val", registered_judge: "known"}
)


def another_image(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 7, np.uint16)).save(path)


def the_same_pixels_in_other_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def nothing(path: Path) -> None:
    path.unlink()


def a_file_that_looks_untouched(path: Path) -> None:
    """Of the same length and time."""
    seen, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    "change", [another_image, the_same_pixels_in_other_bytes, nothing, a_file_that_looks_untouched]
)
def test_a_changed_file_is_refused_or_left_out(tmp_path: Path, road: Callable[[Site], object], change) -> None:
    site = Site(tmp_path)
    row = site.rows(READS.get(road, "test"))[0]
    change(site.manifest.path_of(row))
    if road in LEAVE_OUT:
        found = road(site)
        assert row.image_id not in found
        assert found, "the others are read"
    else:
        with pytest.raises(BadImage, match=row.path):
            road(site)


@pytest.mark.parametrize("road", OF_A_DETECTOR)
@pytest.mark.parametrize("setting", [12, 16], ids=["as params.yaml says", "though params.yaml says otherwise by now"])
def test_a_detector_sees_the_bits_it_was_trained_on(
    tmp_path: Path, road: Callable[[Site], Pixels], setting: int
) -> None:
    site = Site(tmp_path, setting)
    found = road(site)
    assert len(found) >= 2
    for image_id, pixels in found.items():
        assert pixels.tolist() == site.levels[image_id].tolist()


def test_the_id_that_score_prints_is_of_the_bytes_that_it_scored(tmp_path: Path, monkeypatch) -> None:
    from xadflow.cli.score import score_files

    site = Site(tmp_path)
    path = site.manifest.path_of(site.rows("test")[0])
    whole, reads = path.read_bytes(), []
    monkeypatch.setattr("xadflow.detectors.scoring.open_detector", lambda *_: DETECTOR)
    monkeypatch.setattr("xadflow.images.read_file", lambda *_: reads.append(another_image(path)) or whole)
    DETECTOR.calibration.p_value = lambda scores: scores
    ref = SimpleNamespace(name="m", version=1)
    monkeypatch.setattr("xadflow.models.lookup.find_detector", lambda *_: (ref, site.detector))
    project = SimpleNamespace(settings=site.project.settings, device=torch.device("cpu"), registry=None)
    (said,) = score_files(project, "m", [path], 4)  # type: ignore[arg-type]
    assert len(reads) == 1
    assert said["image_id"] == sha256_bytes(whole)
    assert said["score"] == pytest.approx(site.levels[said["image_id"]].mean() / 255)
