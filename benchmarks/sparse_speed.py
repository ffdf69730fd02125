"""How fast counterfactuals are found: `python -m benchmarks.sparse_speed [--quick]`.

Two arms take turns on the same images, the same small network (three convolutions of 3x3, strides of 2) and the same
start:

- *sorted*: an oracle that sorts and bisects, in the loop as published (benchmarks/sort_and_bisect.py);
- *ours*: Newton's oracle in xadflow.explainers.sparse.frank_wolfe.auto_frank_wolfe.

16 images, 75 iterations, p = 1.5, radii of the paper, early stop off; both must reach the same objective. A ratio is
the median over the rounds of sorted / ours in the same round, one thread, and stands for CPU time too. What early stop
adds is measured apart: ours, each image leaving the batch when it is normal. The diverse explainer's part is one pass
of its generator for two concepts, with weights as they are drawn: how long a pass takes does not depend on them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from skimage import data as bundled
from torch import Tensor, nn

from benchmarks import sort_and_bisect
from benchmarks.study import Study, ratios, turns
from xadflow.explainers.diverse.networks import Generator, patch_of
from xadflow.explainers.sparse.frank_wolfe import auto_frank_wolfe
from xadflow.explainers.sparse.oracle import linear_maximisation_oracle

BATCH, ITERATIONS, P, SEED = 16, 75, 1.5, 0
RADII = {64: 9.409, 224: 50.0}  # equal mean change
ROUNDS = 5
TARGETS = {"oracle": 4.0, "loop": 2.0, "loop, aim": 3.0}


def main() -> None:
    """Measure, print a table and write benchmarks/results/sparse-speed.json."""
    study = Study("sparse-speed")
    quick = study.start(__doc__, "64 px, one round").quick
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    sizes = {side: _size(side, 1 if quick else ROUNDS) for side in (list(RADII)[:1] if quick else RADII)}
    figures = {
        "batch": BATCH,
        "iterations": ITERATIONS,
        "p": P,
        "targets": TARGETS,
        "load_average_before": load,
        "load_average_after": os.getloadavg()[0],
        "sizes": {str(side): one for side, one in sizes.items()},
        "generator": {str(side): _generator(side, 1 if quick else ROUNDS) for side in (28, 64, 128)},
    }
    study.write(figures, [SEED])


def _size(side: int, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(SEED)
    x, network, eps = images(side, generator), network_of(generator), RADII[side]
    w = torch.randn(x.shape, generator=generator)
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(SEED)).expand_as(x)
    threshold = float(network(x).median()) - 0.5  # most images are anomalous, some can be made normal soon

    def objective(z: Tensor) -> Tensor:
        return F.logsigmoid(threshold - network(z))

    def ours(stop: Callable[[Tensor], Tensor] | None = None) -> Any:
        return auto_frank_wolfe(lambda z, _: objective(z), x, eps, P, ITERATIONS, SEED, stop=stop)

    arms: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "oracle": (lambda: sort_and_bisect.oracle(x, w, eps, P), lambda: linear_maximisation_oracle(x, w, eps, P)),
        "loop": (lambda: sort_and_bisect.search(objective, x, eps, P, ITERATIONS, noise), ours),
    }
    found: dict[str, Any] = {name: _compared(*pair, rounds=rounds) for name, pair in arms.items()}
    theirs, mine = (one().double() for one in arms["oracle"])
    gap = ((theirs - mine) * w).flatten(1).sum(1) / (mine * w).flatten(1).sum(1)
    found["oracle"]["objective_gap"] = float(gap.abs().max())
    reached, result = sort_and_bisect.search(objective, x, eps, P, ITERATIONS, noise)[1], ours()
    found["loop"]["objective_gap"] = float((reached.mean() - result.values.mean()).abs())
    found["early_stop"] = _compared(ours, lambda: ours(lambda values: values >= -0.6931), rounds=rounds)
    found["early_stop"]["stopped"] = int(ours(lambda values: values >= -0.6931).stopped.sum())
    return found


def images(side: int, generator: torch.Generator) -> Tensor:
    """Crops [16,3,side,side] of a photograph."""
    picture = torch.from_numpy(bundled.astronaut()).permute(2, 0, 1).float() / 255
    places = torch.randint(512 - side, (BATCH, 2), generator=generator).tolist()
    return torch.stack([picture[:, top : top + side, left : left + side] for top, left in places])


def network_of(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Images to one score [B]; untrained, frozen."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1)).requires_grad_(False)
    return lambda z: 40.0 * body(z)[:, 0]


def _compared(first: Callable[[], Any], second: Callable[[], Any], *, rounds: int) -> dict[str, Any]:
    """Median times in ms, and the median ratio of turns in the same round."""
    spent = turns({"first": first, "second": second}, rounds)
    each = ratios(spent["first"], spent["second"])
    return {
        "ratio": median(each),
        "ratio_each": each,
        "cpu_ratio": median(ratios(spent["first"], spent["second"], "cpu")),
        "ms_first": 1000 * median(spent["first"]["clock"]),
        "ms_second": 1000 * median(spent["second"]["clock"]),
    }


@torch.no_grad()
def _generator(side: int, rounds: int) -> dict[str, float]:
    """Images a second through the generator, two counterfactuals each, batches of 64."""
    network = Generator(3, 2, width=24, patch=patch_of(side)).eval()
    x = torch.rand(128, 3, side, side) * 2 - 1
    alpha, concept = torch.zeros(128), torch.arange(2).repeat(64)
    spent = turns({"pass": lambda: network(x, alpha, concept)}, rounds)
    return {"images_per_second": 64 / median(spent["pass"]["clock"])}


if __name__ == "__main__":
    main()
