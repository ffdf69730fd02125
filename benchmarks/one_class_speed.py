"""How fast the one-class family is fed and trained: `python -m benchmarks.one_class_speed [--quick]`.

Two arms give batches of 128 grey images half of them with a synthetic anomaly, shifted, flipped, noised:

- *plain*: one image at a time, by Pillow, torchvision and numpy, in two workers of a DataLoader
(benchmarks/plain_loader.py);
- *ours*: whole batches on the device (xadflow.detectors.one_class.exposure), in the process that trains; masks
  included, which the plain arm does not carry.

The arms take turns, plain first, and a ratio is the median over the rounds of ours / plain in the same round. A turn of
the plain arm starts its workers anew, and the clock starts when its first batch is there. Then the whole step: the same
batches through `cnn28_w`, forward, backward and AdamW. How long the network takes alone is measured on one batch that
stays. There the workers of the plain arm may be ahead by all batches of the turn when the clock starts: that flatters
it.

Beside the clock stands the CPU time of each arm, its workers included: other work on the machine changes that less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from typing import Any

import torch
from skimage import data as bundled
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.plain_loader import PlainImages
from benchmarks.study import Study
from xadflow.detectors import TrainingData
from xadflow.detectors.losses import image_level_loss
from xadflow.detectors.one_class.exposure import Exposure
from xadflow.detectors.one_class.responses import FLOOR, DenseResponse
from xadflow.detectors.one_class.settings import DenseSettings
from xadflow.training.devices import resolve_device

BATCH, WORKERS, THREADS, SEED = 128, 2, 1, 0  # two threads wait for each other on a machine with other work
CASES = {
    "28 px, confetti": (28, "confetti", 24),
    "96 px, confetti": (96, "confetti", 8),
    "96 px, defects": (96, "defects", 6),
}
STEP_CASE, STEP_BATCHES = "28 px, confetti", 3
ROUNDS, STEP_ROUNDS = 3, 3
TARGET_RATIO, TARGET_SHARE = 5.0, 0.8
Consume = Callable[[Tensor, Tensor], None]


def main() -> None:
    """Measure every case, print a table and write benchmarks/results/one-class-speed.json."""
    study = Study("one-class-speed")
    quick = study.start(__doc__, "one round of each case").quick
    load = os.getloadavg()[0]
    torch.set_num_threads(THREADS)
    device = resolve_device("auto")
    inputs = {name: _compared(name, device, 1 if quick else ROUNDS) for name in CASES}
    step = _step(device, 1 if quick else STEP_ROUNDS)
    figures = {
        "batch": BATCH,
        "workers": WORKERS,
        "threads": THREADS,
        "load_average_before": load,
        "load_average_after": os.getloadavg()[0],
        "inputs": inputs,
        "step": step,
        "target_input_ratio": TARGET_RATIO,
        "target_network_share_on_gpu": TARGET_SHARE,
    }
    study.write(figures, [SEED])


def _compared(name: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """The input path alone."""
    return _turns(name, CASES[name][2], rounds, device, lambda images, is_anomaly: None)


def _step(device: torch.device, rounds: int) -> dict[str, Any]:
    """The input path and the network, and what of the time the network takes."""
    side = CASES[STEP_CASE][0]
    response = DenseResponse("cnn28_w", (1, side, side), DenseSettings()).to(device, memory_format=torch.channels_last)
    response.prepare.fit(_normals(side).to(device), 256)
    optimiser = torch.optim.AdamW(response.parameters(), lr=1e-4, fused=device.type == "cuda")

    def learn(images: Tensor, is_anomaly: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            maps = response(images)
        optimiser.zero_grad()
        image_level_loss(maps.float().mean(dim=(1, 2)), is_anomaly, FLOOR).mean().backward()
        optimiser.step()

    images, is_anomaly = next(_ours(STEP_CASE, 1, device))
    alone = []

    def alone_too(rate: float) -> None:
        started = time.perf_counter()
        for _ in range(STEP_BATCHES):
            learn(images, is_anomaly)
        _wait(device)
        alone.append(STEP_BATCHES * BATCH / (time.perf_counter() - started))

    learn(images, is_anomaly)
    figures = _turns(STEP_CASE, STEP_BATCHES, rounds, device, learn, alone_too)
    network = median(alone)
    shares = {
        f"network_share_{arm}": median(rate / one for rate, one in zip(figures["each_round"][arm], alone, strict=True))
        for arm in ("plain", "ours")
    }
    return {"case": STEP_CASE, "network": "cnn28_w", **figures, "images_per_second_network_alone": network, **shares}


def _turns(
    name: str,
    batches: int,
    rounds: int,
    device: torch.device,
    consume: Consume,
    after: Callable[[float], None] = lambda rate: None,
) -> dict[str, Any]:
    """Images a second of both arms, turn about; `after` is called at the end of each round."""
    each: dict[str, list[float]] = {"plain": [], "ours": []}
    cpu: dict[str, list[float]] = {"plain": [], "ours": []}
    _normals(CASES[name][0])
    for _ in range(rounds):
        for arm, source in (("plain", _plain), ("ours", _ours)):
            before = _cpu_seconds()
            each[arm].append(_rate(source(name, batches + 1, device), batches, device, consume))
            cpu[arm].append(1e3 * (_cpu_seconds() - before) / ((batches + 1) * BATCH))
        after(each["ours"][-1])
    ratio = median(ours / plain for plain, ours in zip(each["plain"], each["ours"], strict=True))
    middle = {arm: median(rates) for arm, rates in each.items()}
    cpu_ratio = median(plain / ours for plain, ours in zip(cpu["plain"], cpu["ours"], strict=True))
    return {
        "images_per_second_plain": middle["plain"],
        "images_per_second_ours": middle["ours"],
        "ratio": ratio,
        "cpu_ms_per_image_plain": median(cpu["plain"]),
        "cpu_ms_per_image_ours": median(cpu["ours"]),
        "cpu_ratio": cpu_ratio,
        "each_round": each,
        "batches_a_turn": batches,
    }


def _rate(batches: Iterator[tuple[Tensor, Tensor]], count: int, device: torch.device, consume: Consume) -> float:
    """Images a second over `count` batches after a first one that is not counted."""
    consume(*next(batches))
    _wait(device)
    started = time.perf_counter()
    for images, is_anomaly in batches:
        consume(images, is_anomaly)
    _wait(device)
    return count * BATCH / (time.perf_counter() - started)


def _plain(name: str, batches: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    side, _, _ = CASES[name]
    dataset = PlainImages(_normals(side), _settings(name), batches * BATCH, SEED)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, pin_memory=device.type == "cuda")
    for images, is_anomaly in loader:
        yield images.to(device, non_blocking=True), is_anomaly.to(device, non_blocking=True).bool()


def _ours(name: str, batches: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    normals = _normals(CASES[name][0])
    data = TrainingData(normals, normals[:0], normals[:0], None, normals[:0])
    exposure = Exposure(data, _settings(name), device, anomalies=True)
    generator = torch.Generator(device).manual_seed(SEED)
    for _ in range(batches):
        batch = exposure.batch(generator)
        yield batch.images, batch.is_anomaly


def _settings(name: str) -> DenseSettings:
    return DenseSettings(anomalies=("synthetic",), synthesiser=CASES[name][1], noise=0.02, batch_size=BATCH)  # type: ignore[arg-type]


def _cpu_seconds() -> float:
    """Of this process and of its workers that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@cache
def _normals(side: int) -> Tensor:
    """512 crops of a photographed brick wall, uint8 [512,1,side,side]."""
    wall = torch.from_numpy(bundled.brick().copy())
    places = torch.randint(wall.shape[0] - side, (512, 2), generator=torch.Generator().manual_seed(SEED)).tolist()
    return torch.stack([wall[top : top + side, left : left + side] for top, left in places])[:, None]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
