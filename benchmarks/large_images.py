"""Large images through the commands of a user: `python -m benchmarks.large_images [--only photos strips] [--quick]`.

Two products, textures of scikit-image with painted defects: photos of 2400 x 1600 px with chips of 10 px, which come
with masks, and strips of 24,000 x 512 px of a line-scan camera with spots of 12 px, which come without. Each goes
through `data add`, `retrain`, `explain`, `score` and `audit show` of a small project of its own. The photos are first
added without any option, and then what the command's own warning says is set; the strips are added with `--tile-px`.

The page says what each command took, and whether the highest heat of each flagged image lies on its defect. Memory is
what all processes of a command hold together (Pss of Linux, twice a second).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from benchmarks.kit.commands import command, explained_image
from benchmarks.small_project import make_project
from benchmarks.study import Study
from xadflow.metrics.ranks import auroc

STUDY = Study("large-images", own=("large_images.py",))
NEAR_PX = 16  # from the defect's border to the highest heat: a cell of the trunk's finest features, and half of one
_WINDOW = ("--tile-px", "128")
_STRIPS_ALLOWED = {"max_side_px: 20000": "max_side_px: 30000"}  # as the message of the border says


@dataclass(frozen=True)
class Product:
    """Images of one shape: how many of each kind, the side of a defect, and what a user sets."""

    name: str
    shape: tuple[int, int]
    train: int
    good: int
    bad: int
    defect_px: int
    draw: Callable[[np.random.Generator, tuple[int, int]], NDArray[np.uint8]]
    masks: bool
    options: tuple[str, ...] = ()
    changes: Mapping[str, str] | None = None


def _gravel(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A crop of gravel, mirrored at each border so that it goes on."""
    one = data.gravel()
    pair = np.block([[one, one[:, ::-1]], [one[::-1], one[::-1, ::-1]]])
    whole = np.tile(pair, (1 + -(-shape[0] // pair.shape[0]), 1 + -(-shape[1] // pair.shape[1])))
    top, left = rng.integers(0, whole.shape[0] - shape[0]), rng.integers(0, whole.shape[1] - shape[1])
    return np.array(whole[top : top + shape[0], left : left + shape[1]])


def _bricks(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A wall that goes round."""
    row = np.tile(data.brick(), (1, -(-shape[1] // 512)))[: shape[0], : shape[1]]
    return np.roll(row, (int(rng.integers(512)), int(rng.integers(shape[1]))), (0, 1)).copy()


PRODUCTS = (
    Product("photos", (1600, 2400), 64, 20, 24, 10, _gravel, masks=True),
    Product("strips", (512, 24_000), 44, 8, 8, 12, _bricks, False, _WINDOW, _STRIPS_ALLOWED),
)
QUICK = (
    Product("photos", (960, 1280), 44, 8, 10, 10, _gravel, masks=True),
    Product("strips", (256, 4_800), 44, 8, 8, 12, _bricks, False, _WINDOW, _STRIPS_ALLOWED),
)


def main() -> None:
    """Draw the products, run the commands, write benchmarks/results/large-images.json after each product."""
    given = STUDY.start(__doc__, "smaller images, which take a tenth of the time", "only")
    kept = STUDY.place / ("quick.json" if given.quick else "rows.json")
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    products = QUICK if given.quick else PRODUCTS
    for product in products:
        if given.only and product.name not in given.only:
            continue
        rows[product.name] = measured(STUDY.place, product)
        kept.write_text(json.dumps(rows))
        done = {one.name: rows[one.name] for one in products if one.name in rows}
        STUDY.write({"near_px": NEAR_PX, "products": done}, (0,))


def draw(folder: Path, product: Product, seed: int = 5) -> dict[str, tuple[int, int]]:
    """The folder in MVTec-AD layout; where the defect of each anomalous image begins (row, column), by its path."""
    rng, places = np.random.default_rng(seed), dict[str, tuple[int, int]]()
    side, (height, width) = product.defect_px, product.shape
    for part, count in (("train/good", product.train), ("test/good", product.good), ("test/chip", product.bad)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels, path = product.draw(rng, product.shape), f"{part}/{number:03d}.jpg"
            if part == "test/chip":
                top, left = int(rng.integers(30, height - 30 - side)), int(rng.integers(30, width - 30 - side))
                places[path] = top, left
                pixels[top : top + side, left : left + side] = 255
                if product.masks:
                    mask = np.zeros(product.shape, np.uint8)
                    mask[top : top + side, left : left + side] = 255
                    (folder / "ground_truth/chip").mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(folder / f"ground_truth/chip/{number:03d}_mask.png")
            Image.fromarray(pixels).save(folder / path, quality=85)
    return places


def measured(place: Path, product: Product) -> dict[str, Any]:
    """What the commands took and found."""
    project, folder = place / f"project-{product.name}", place / f"images-{product.name}"
    for old in (project, folder):
        shutil.rmtree(old, ignore_errors=True)
    places = draw(folder, product)
    make_project(project, product.changes or {})
    name, commands = product.name, []

    def typed(*words: str) -> dict[str, Any]:
        commands.append(command(project, *words))
        STUDY.note(f"{name}: {' '.join(words[:2])}: {commands[-1]['status']}, {commands[-1]['seconds']:.0f} s")
        return commands[-1]

    added = typed("data", "add", name, str(folder), *product.options)
    warning = next((line for line in added["text"].splitlines() if "size_px:" in line and "tile_px:" in line), "")
    if not product.options:
        follow(project / "params.yaml", name, warning)
    typed("retrain", "--dataset", name)
    typed("explain", "--dataset", name)
    typed("score", str(folder / next(iter(places))), "--model", f"xad.{name}.fcdd@champion", "--json")
    typed("audit", "show", explained_image(project))
    for one in commands:
        (place / f"{name}-{one['command'].replace(' ', '-')}.txt").write_text(one.pop("text"))
    return {
        "shape": product.shape,
        "images": [product.train, product.good, product.bad],
        "defect_px": product.defect_px,
        "masks": product.masks,
        "warning": warning,
        "commands": commands,
        **found(project, places, product.defect_px),
    }


def follow(params: Path, name: str, warning: str) -> None:
    """Set under the data set in params.yaml what the warning of `data add` says, word for word.

    Raises ValueError for a warning that names no size and no window.
    """
    said = re.search(r"size_px: (\[\d+, \d+\]) and tile_px: (\d+) under datasets\.", warning)
    if said is None:
        raise ValueError(f"nothing to follow in {warning!r}")
    text = params.read_text(encoding="utf-8")
    of_it = re.search(rf"^  {name}: .*$", text, re.MULTILINE)
    assert of_it is not None
    entry = re.sub(r"size_px: (\[[^]]*\]|\d+)", f"size_px: {said[1]}, tile_px: {said[2]}", of_it[0])
    params.write_text(text.replace(of_it[0], entry), encoding="utf-8")


def found(project: Path, places: Mapping[str, tuple[int, int]], side: int) -> dict[str, Any]:
    """From the rows of the night: AUROC of the test images, and of each flagged defect how far the highest heat is."""
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    from xadflow.images import decode_png

    tables = project / "var" / "tables"
    if not (tables / "explanations").is_dir():
        return {}
    scores = DeltaTable(str(tables / "scores")).to_pyarrow_table(columns=["image_path", "score", "is_anomaly"])
    paths, raw, flags = (scores[name].to_pylist() for name in ("image_path", "score", "is_anomaly"))
    labels = [int("/chip/" in path) for path in paths]
    heat = pc.field("explainer") == "heatmap"
    rows = (
        DeltaTable(str(tables / "explanations")).to_pyarrow_dataset().to_table(["image_path", "heatmap"], filter=heat)
    )
    apart, shape = [], None
    for batch in rows.to_batches(max_chunksize=4):
        for row in batch.to_pylist():
            name = "/".join(row["image_path"].split("/")[-3:])
            if (at := places.get(name)) is None:
                continue
            pixels = decode_png(row["heatmap"]["bytes"])[0]
            shape = list(pixels.shape)
            hottest = np.argwhere(pixels == pixels.max())
            outside = np.maximum(np.maximum(np.array(at) - hottest, hottest - (np.array(at) + side - 1)), 0)
            apart.append(int(outside.max(axis=1).min()))
    return {
        "tested": [labels.count(0), labels.count(1)],
        "auroc": auroc(np.array(raw), np.array(labels)),
        "flagged": [sum(bool(flag) for flag, label in zip(flags, labels, strict=True) if label == of) for of in (0, 1)],
        "map_shape": shape,
        "heat_apart_px": sorted(apart),
        "heat_on_defect": sum(px <= NEAR_PX for px in apart),
    }


if __name__ == "__main__":
    main()
