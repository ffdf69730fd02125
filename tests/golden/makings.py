"""What the golden values are made of: images, one small training a method, and what explainers say of a few images."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from skimage import data as bundled
from torch import Tensor

from tests.golden import house

SIDE = 32
SCENE = 64  # side of scenes
WEIGHTS, CARD = "weights.safetensors", "detector.json"
_STEPS = {"network": "cnn28", "min_steps": 12, "epochs": 1.0, "batch_size": 16}

DETECTORS: Mapping[str, Mapping[str, Any]] = {
    "fcdd": {
        "stages": (3,),
        "map_stages": (2,),
        "min_steps": 10,
        "epochs": 1.0,
        "batch_normals": 16,
        "batch_synthetic": 16,
    },
    "fcdd_conv": _STEPS,
    "hsc": _STEPS,
    "padim": {"stages": (2,), "least_px": 32},
    "dsvdd": {**_STEPS, "outputs": 16},
    "deep_sad": _STEPS,
    "bce": _STEPS,
    "ae": _STEPS,
    "tiled": {"inner": "padim", "inner_settings": {"stages": (2,), "least_px": 32}, "tile_px": 20, "overlap_px": 8},
    "utad": {
        "impression": {"width": 2, "code": 4, "min_steps": 30, "batch_size": 8, "adversarial": 0.1, "dropout": 0.2},
        "expert": {"width": 8, "min_steps": 8, "batch_size": 4},
        "sheets": 0,
        "score": {"knn": 0.5, "neighbours": 3},
    },
    "dense_hybrid": {
        "closed": {"min_steps": 3, "batch_size": 2},
        "hybrid": {"min_steps": 3, "batch_size": 2},
        "sheets": 0,
    },
}
"""Every registered detector with its smallest settings."""

EXPLAINERS: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {
    "cues": (("dense_hybrid", {}),),
    "diverse": (("fcdd_conv", {"width": 8, "images": 4, "steps": 4, "concepts": 2}),),
    "heatmap": (("fcdd", {}), ("bce", {}), ("ae", {})),
    "reconstruction": (("utad", {"samples": 2}),),
    "sparse": (("fcdd", {"iterations": 8}), ("hsc", {"iterations": 12})),
    "transplant": (("fcdd", {"alternatives": 2, "candidates": 3}), ("hsc", {"alternatives": 2, "candidates": 3})),
}
"""Every explainer with the detectors it explains here, and its settings."""

NONE = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)


def crops(count: int, seed: int) -> Tensor:
    """uint8 [count,1,32,32]: a brick wall at half its size."""
    wall = torch.from_numpy(bundled.brick()[::2, ::2].copy())
    places = torch.randint(wall.shape[0] - SIDE, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([wall[y : y + SIDE, x : x + SIDE] for y, x in places])[:, None].contiguous()


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 [count,1,64,64] and labels [count,64,64]: stripes lying beside stripes standing, a void corner."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SCENE), torch.arange(SCENE), indexing="ij")
    border, phase = torch.randint(6, 40, (2, count, 1, 1), generator=g)
    lying, standing = (((at + phase) % 6 < 3).float() for at in (y, x))
    labels = (x >= border + 8).long().expand(count, SCENE, SCENE).clone()
    images = torch.where(labels == 0, lying, standing) * 0.5 + 0.25
    images = images + 0.03 * torch.randn(images.shape, generator=g)
    labels[:, :4, :4] = 255
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)[:, None], labels.to(torch.uint8)


def training_data(method: str) -> Any:
    """What a method is trained on."""
    if method == "dense_hybrid":
        (images, labels), (val_images, val_labels) = scenes(8, 1), scenes(12, 2)
        none = torch.zeros(0, 1, SCENE, SCENE, dtype=torch.uint8)
        foreign = torch.randint(256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
        negatives = foreign.repeat_interleave(SCENE // 8, 2).repeat_interleave(SCENE // 8, 3)
        return house.TrainingData(
            images,
            val_images,
            none,
            None,
            none,
            negatives,
            labels=labels,
            val_labels=val_labels,
            classes=("lying", "standing"),
        )
    if method == "utad":
        return house.TrainingData(crops(24, 1), crops(20, 2), NONE, None, NONE)
    known, masks = house.synthetic_defects(crops(6, 3), torch.Generator().manual_seed(0))
    return house.TrainingData(crops(32, 1), crops(20, 2), known, masks, NONE)


def asked(method: str) -> Tensor:
    """uint8 [3,1,H,W]: an unseen image and two with a defect."""
    if method == "dense_hybrid":
        images = scenes(3, 11)[0]
        images[1:, :, 20:44, 20:44] = torch.arange(24, dtype=torch.uint8)[:, None] * 10
        return images
    images = crops(3, 7)
    images[1, :, 8:16, 6:14] = 12
    images[2, :, 14:26, 18:24] = 240
    return images


def fit(method: str, folder: Path) -> tuple[Any, list[float]]:
    """One method trained on the CPU, and its losses in the order of its history."""
    detector = house.build_detector(method, **DETECTORS[method])
    report = detector.fit(training_data(method), house.FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu"))
    return detector, [value for _, _, value in report.history]


def fit_generator(detector: Any, weights: str, folder: Path) -> Any:
    """The trained explainer."""
    explainer = house.build_explainer("diverse", **EXPLAINERS["diverse"][0][1])
    data = training_data("fcdd_conv")
    run = house.GeneratorRun(folder, 0, "golden", torch.device("cpu"))
    explainer.fit(detector, weights, data.normals, data.known, run)  # type: ignore[attr-defined]
    return explainer


def sha256(content: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(content).hexdigest()


def saved_digests(thing: Any, folder: Path) -> dict[str, str]:
    """What a detector or a trained explainer saves, file by file."""
    thing.save(folder)
    return {path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir())}


def pack(folder: Path, kept: Path) -> None:
    """Keep a saved model in the repository: its weights in few bits, compressed, and a card that knows them.

    A golden model need not be a good one, only the same one: weights of a network are rounded to 1/16 of the tensor's
    largest.
    """
    kept.mkdir(parents=True, exist_ok=True)
    (path,) = folder.glob("*.safetensors")
    content = path.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = {name: _rounded(value) for name, value in sorted(load(content).items())}
    rounded = save(tensors, metadata=head.get("__metadata__"))
    (kept / f"{path.name}.xz").write_bytes(lzma.compress(rounded, preset=9))
    (card,) = folder.glob("*.json")
    (kept / card.name).write_text(card.read_text().replace(sha256(content), sha256(rounded)))


def _rounded(values: Tensor) -> Tensor:
    if values.dtype != torch.float32 or values.numel() < 2000:
        return values
    step = values.abs().amax() / 16
    return torch.round(values / step) * step if step > 0 else values


def unpack(kept: Path, folder: Path) -> Path:
    """The saved model as it was on disk."""
    folder.mkdir(parents=True)
    for path in kept.iterdir():
        if path.suffix == ".xz":
            (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
        else:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


LARGEST_KEPT_PX = 128  # of larger pictures, sheets with lettering, only mean and shape are kept for other processors
DONORS = 8


def donor_bank(detector: Any, folder: Path) -> Any:
    """A bank of 8 donors, through the files that a detector version keeps of it."""
    images = crops(DONORS, 5)
    with torch.no_grad():
        maps = detector.score(house.as_float(images)).map
    mean = None if maps is None else (maps.mean(dim=0) * 64).round() / 64  # few bits, so that it is the same everywhere
    ids = tuple(sha256(image.numpy().tobytes()) for image in images)
    folder.mkdir(parents=True)
    house.DonorList(ids, "flips", False, 20, True, mean).save(folder)
    return house.DonorBank.of(house.DonorList.load(folder), ids, images)


def explainer_for(
    name: str, method: str, settings: Mapping[str, Any], models: Path, folder: Path, detector: Any
) -> Any:
    """An explainer ready to be asked."""
    if name == "diverse":
        return house.load_explainer(unpack(models / "diverse", folder / "diverse"))
    explainer: Any = house.build_explainer(name, **settings)
    return (
        explainer.with_donors(donor_bank(detector, folder / f"{name}-{method}")) if name == "transplant" else explainer
    )


Found = tuple[dict[str, Any], dict[str, np.ndarray]]  # what JSON holds, and arrays by name


def scored(method: str, models: Path, folder: Path) -> Found:
    """Scores, logits and maps of the kept model."""
    detector = house.load_detector(unpack(models / method, folder / method))
    with torch.no_grad():
        images = house.as_float(asked(method))
        told, logit = detector.score(images), detector.normal_logit(images)
    maps = told.map.numpy()
    values = {
        "scores": told.image.double().tolist(),
        "normal_logit": logit.double().tolist(),
        "map_sha256": sha256(maps.tobytes()),
        "threshold": detector.calibration.threshold,
        "temperature": detector.calibration.temperature,
    }
    return values, {f"{method}/map": maps}


def explained(name: str, method: str, models: Path, folder: Path) -> Found:
    """Rows of one explainer of one detector: digests, figures, and the pictures themselves."""
    detector: Any = house.load_detector(unpack(models / method, folder / method))
    explainer = explainer_for(name, method, dict(EXPLAINERS[name])[method], models, folder, detector)
    images = asked(method)
    told = explainer.explain(detector, house.as_float(images))
    if name == "transplant":
        judge = unpack(models / "padim", folder / "judge")
        told = house.judged(judge, sha256((judge / WEIGHTS).read_bytes()), told, images)
    with torch.no_grad():
        scores = detector.score(house.as_float(images)).image.double().tolist()
    values, arrays = {}, {}
    for number, one in enumerate(told):
        key = f"{name}-{method}/{number}"
        row = house.row(
            method, explainer, images[number].numpy(), f"{number:064x}", scores[number], detector.calibration, one
        )
        if one.heatmap is not None:
            arrays[f"{key}/heatmap"] = np.asarray(one.heatmap)
            arrays[f"{key}/heatmap.stored"] = np.asarray(Image.open(io.BytesIO(row["heatmap"]["bytes"])))
        for place, made in enumerate(one.counterfactuals):
            arrays[f"{key}/counterfactual.{place}"] = made.image
        for shown in one.images:
            if max(shown.image.shape) <= LARGEST_KEPT_PX:
                arrays[f"{key}/image.{shown.name}"] = shown.image
        sheets = {
            shown.name: [list(shown.image.shape), float(shown.image.mean())]
            for shown in one.images
            if max(shown.image.shape) > LARGEST_KEPT_PX
        }
        values[str(number)] = {**_readable(row), "sheets": sheets}
    return values, arrays


def _readable(row: Any) -> Any:
    """A row with each picture as the digest of its bytes."""
    if isinstance(row, dict):
        return {name: _readable(value) for name, value in row.items()}
    if isinstance(row, list):
        return [_readable(value) for value in row]
    if isinstance(row, bytes):
        return f"sha256 {sha256(row)}"
    return row if isinstance(row, str | int | float | bool | None) else str(row)


def pixels_of_files(folder: Path) -> dict[str, str]:
    """Digests of what a detector is given of image files of several kinds."""
    wall = bundled.brick()[:96, :80]
    colour = np.stack([wall, wall[::-1], wall[:, ::-1]], axis=2)
    Image.fromarray(wall).save(folder / "grey.png")
    Image.fromarray(colour).save(folder / "colour.png")
    Image.fromarray(wall.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.dstack([colour, wall]), "RGBA").save(folder / "alpha.png")
    return {
        f"{path.name} {height}x{width}x{channels}": sha256(
            np.ascontiguousarray(house.load_input(path, (height, width), channels)).tobytes()
        )
        for path in sorted(folder.glob("*.png"))
        for height, width, channels in ((32, 32, 1), (96, 80, 3), (40, 64, 3))
    }


def retrained(method: str, folder: Path) -> Found:
    """A training done anew: digests of what it saves, and its scores for a weaker comparison."""
    detector, losses = fit(method, folder / "fit")
    digests = saved_digests(detector, folder / "saved")
    tensors = {
        name: list(value.shape) for name, value in sorted(load((folder / "saved" / WEIGHTS).read_bytes()).items())
    }
    with torch.no_grad():
        scores = detector.score(house.as_float(asked(method))).image.double().tolist()
    return {"files_sha256": digests, "tensors": tensors, "scores": scores, "losses": losses}, {}


def retrained_generator(models: Path, folder: Path) -> Found:
    """The trained explainer trained anew."""
    detector = house.load_detector(unpack(models / "fcdd_conv", folder / "fcdd_conv"))
    explainer = fit_generator(detector, "ab" * 32, folder / "fit")
    told = explainer.explain(detector, house.as_float(asked("fcdd_conv")))
    scores = [made.score for one in told for made in one.counterfactuals]
    return {"files_sha256": saved_digests(explainer, folder / "saved"), "scores": scores}, {}


def write_models(models: Path, folder: Path) -> None:
    """Train every model anew and keep it."""
    for method in DETECTORS:
        detector, _ = fit(method, folder / method / "fit")
        detector.save(folder / method / "saved")
        pack(folder / method / "saved", models / method)
    explained_folder = unpack(models / "fcdd_conv", folder / "explained")
    weights = sha256((explained_folder / WEIGHTS).read_bytes())
    explainer = fit_generator(house.load_detector(explained_folder), weights, folder / "diverse")
    explainer.save(folder / "diverse" / "saved")
    pack(folder / "diverse" / "saved", models / "diverse")
