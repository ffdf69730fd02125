"""What the two readings of DenseHybrid cost over plain segmentation: `python -m benchmarks.dense_overhead [--quick]`.

Arms take turns on one random image, one thread, weights as they are drawn, 19 classes:

- *net*: the segmentation net alone, and with its dataset head;
- *decision*: the net, its class logits enlarged to the image, argmax; and with ln P(d_out) - ln p_hat beside it, both
  enlarged exactly as when it judges (*exact*), or as two small maps (*small*).

A ratio is the median over the rounds of with / without in the same round; the order of the arms turns with the rounds.
Multiply-accumulates are counted, not timed. Beside it, how far tiles are from the whole image, of a photograph: nets
whose batch normalisation has seen crops of it, but untrained, so that figures of nets with global context only tell an
order of magnitude.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from skimage import data as bundled
from torch import Tensor, nn

from benchmarks.multiply_accumulates import multiply_accumulates
from benchmarks.study import Study, ratios, turns
from xadflow.detectors.dense_hybrid.networks import SceneNet, build_net, enlarged
from xadflow.detectors.dense_hybrid.reading import read
from xadflow.detectors.dense_hybrid.tiling import reach_px, score_tiled
from xadflow.images import as_float

CLASSES, SEED, ROUNDS, TURN_S = 19, 0, 7, 2.0
TIMED = {"mobile": (512, 512), "ladder_densenet121": (256, 512)}
PUBLISHED = {"net": "ladder_densenet121", "size": (1024, 2048), "plain": 205.728e9, "hybrid": 205.762e9}
TARGET_OVERHEAD = 0.001  # of multiply-accumulates
TILED = ("mobile", "ladder_densenet121", "deeplab_resnet50")
TILE_PX, MARGINS_PX = 128, (0, 64, 128)
CROPS, CROP_PX = 8, 256  # that batch normalisation has seen


class _NoHead(nn.Module):
    """In the place of the dataset head: a view, which costs nothing."""

    def forward(self, feature: Tensor) -> Tensor:
        return feature[:, :2]


def main() -> None:
    """Measure, print a table and write benchmarks/results/dense-overhead.json."""
    study = Study("dense-overhead")
    quick = study.start(__doc__, "the light net alone, three rounds").quick
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    names = ["mobile"] if quick else list(TIMED)
    figures: dict[str, Any] = {
        "classes": CLASSES,
        "rounds": 3 if quick else ROUNDS,
        "target_overhead": TARGET_OVERHEAD,
        "times": {name: timed(name, *TIMED[name], rounds=3 if quick else ROUNDS) for name in names},
        "load_average_before": load,
        "load_average_after": os.getloadavg()[0],
        "counts": counts(),
        "tile_px": TILE_PX,
        "tiles": {name: tiles(name) for name in (TILED[:1] if quick else TILED)},
    }
    study.write(figures, [SEED])


def net_of(name: str) -> SceneNet:
    """Untrained, weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build_net(name, CLASSES, 3, pretrained=False).eval()


def plain_of(net: SceneNet) -> SceneNet:
    """The same net without its dataset head; its second map means nothing."""
    plain = copy.deepcopy(net)
    plain.dataset_head = _NoHead()
    return plain


def decided(net: SceneNet, images: Tensor) -> Tensor:
    """The class of each pixel, int64 [B,H,W]: what segmentation is for."""
    return enlarged(net(images)[0], images.shape[2:]).argmax(dim=1)


def hybrid(net: SceneNet, images: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """The class and the score of each pixel, [B,H,W] both."""
    reading = read(net, images, exact=exact)
    return reading.class_logits.argmax(dim=1), reading.map("hybrid")


@torch.no_grad()
def timed(name: str, height: int, width: int, *, rounds: int) -> dict[str, Any]:
    """Times of all arms, and ratios to the one they are compared with."""
    net = net_of(name)
    plain, images = plain_of(net), torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(SEED))
    arms: dict[str, Callable[[], Any]] = {
        "net": lambda: plain(images),
        "net, dataset head": lambda: net(images),
        "decision": lambda: decided(plain, images),
        "decision, score exact": lambda: hybrid(net, images, exact=True),
        "decision, score small": lambda: hybrid(net, images, exact=False),
    }
    spent = turns(arms, rounds, TURN_S)
    found: dict[str, Any] = {"height": height, "width": width}
    for arm, times in spent.items():
        base = spent[arm.partition(",")[0]]
        clock, cpu = (ratios(times, base, of) for of in ("clock", "cpu"))
        found[arm] = {
            "ms": 1000 * median(times["clock"]),
            "ratio": median(clock),
            "ratio_each": clock,
            "cpu_ratio": median(cpu),
        }
    return found


def counts() -> dict[str, Any]:
    """Multiply-accumulates of each timed net at its size, and of the published one at the published size."""
    sizes = [*TIMED.items(), (PUBLISHED["net"], PUBLISHED["size"])]
    found = []
    for name, (height, width) in sizes:
        one = multiply_accumulates(net_of(name), height, width)
        found.append(
            {
                "net": name,
                "height": height,
                "width": width,
                "plain": one.plain,
                "hybrid": one.hybrid,
                "overhead": one.overhead,
            }
        )
    return {"rows": found, "published_plain": PUBLISHED["plain"], "published_hybrid": PUBLISHED["hybrid"]}


@torch.no_grad()
def tiles(name: str) -> dict[str, Any]:
    """How far the score in tiles is from that of the whole image, in standard deviations of the latter; and
    the reach.
    """
    net, image = net_of(name), torch.from_numpy(bundled.astronaut()).permute(2, 0, 1).contiguous()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch that follows
    # Crops that differ: the statistics of an image mean come from as many values as there are images.
    places = torch.randint(512 - CROP_PX, (CROPS, 2), generator=torch.Generator().manual_seed(SEED)).tolist()
    net.train()(as_float(torch.stack([image[:, top : top + CROP_PX, left : left + CROP_PX] for top, left in places])))
    net.eval()

    def score(images: Tensor) -> Tensor:
        return hybrid(net, images, exact=True)[1]

    whole, reach = score(as_float(image[None]))[0].numpy(), reach_px(net)
    margins = [*MARGINS_PX, *([reach] if reach is not None else [])]
    found = []
    for margin in margins:
        apart = (
            abs(score_tiled(score, image, stride=net.stride, margin_px=margin, tile_px=TILE_PX) - whole) / whole.std()
        )
        found.append({"margin_px": margin, "mean": float(apart.mean()), "most": float(apart.max())})
    return {"reach_px": reach, "margins": found}


if __name__ == "__main__":
    main()
