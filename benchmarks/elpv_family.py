"""Which of FCDD's family is best on ELPV: `python -m benchmarks.elpv_family [--quick]`.

Protocols, carving, known defects (k = 20) and PaDiM's pooling are those of benchmarks/elpv.py. A member is one trunk at
one size; what is tried with it:

- larger images (192 px) and the second trunk (MobileNetV2);
- statistics of each cell type (mono- or polycrystalline) in the place of one whitening for both. The type is read
  from ELPV's list, which a plant knows of its own cells and the product does not ask for;
- the last two stages fine-tuned after the head, whitening kept: on peer-0 and the first seed alone, since a cell of it
  takes several times as long as the others, and it was worse there than the head by itself;
- four mirrored copies of a test image, mean of their scores (`flips`);
- several members together: the mean of their scores, each standardised on validation normals.

PaDiM gets the same flips and the same members, so that what is left is what was learned. The best is named by the mean
of peer-0, blocks-0 and blocks-1 (which were looked at before, see elpv.py) on the first seed; blocks 2-4 chose nothing.
Scores are kept in var/bench-elpv-family, so a run that was stopped goes on where it was while the code is the same.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import elpv
from benchmarks.elpv import Protocol, protocols, summarise
from benchmarks.study import Study
from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors import FitRun
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.detectors.fcdd.feature_bank import FeatureBank, features_of, flipped, some_of
from xadflow.detectors.fcdd.heads import Whitening
from xadflow.detectors.losses import image_level_loss, pooled
from xadflow.images import load_input
from xadflow.metrics.ranks import auroc
from xadflow.networks.pretrained import TRUNKS, Trunk
from xadflow.training.seeds import seeded

KNOWN = 20
SEEDS = (0, 1, 2)
SEARCHED = ("peer-0", "blocks-0", "blocks-1")
STUDY = Study("elpv-family", own=("elpv_family.py", "elpv.py"))
CPU = torch.device("cpu")
FLOOR = 1e-6
FINE_STEPS, FINE_RATE = 60, 1e-4


@dataclass(frozen=True)
class Member:
    """One trunk at one input size, and what is done with it beyond the default."""

    trunk: str
    px: int
    by_type: bool = False
    fine: bool = False

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.trunk}-{self.px}{'-types' if self.by_type else ''}{'-fine' if self.fine else ''}"


LITE, LARGE = Member("lite0", 128), Member("lite0", 192)
MOBILE, MOBILE_LARGE = Member("mobilenet_v2", 128), Member("mobilenet_v2", 192)
TYPES, FINE = Member("lite0", 128, by_type=True), Member("lite0", 128, fine=True)
ROWS: dict[str, tuple[Member, ...]] = {
    "Lite0, 128 px (default)": (LITE,),
    "Lite0, 192 px": (LARGE,),
    "MobileNetV2, 128 px": (MOBILE,),
    "MobileNetV2, 192 px": (MOBILE_LARGE,),
    "Lite0, statistics of each cell type": (TYPES,),
    "both trunks, 128 px": (LITE, MOBILE),
    "both trunks, 192 px": (LARGE, MOBILE_LARGE),
    "Lite0, both sizes": (LITE, LARGE),
    "both trunks, both sizes": (LITE, LARGE, MOBILE, MOBILE_LARGE),
}
MEMBERS = (LITE, LARGE, MOBILE, MOBILE_LARGE, TYPES)
Place = tuple[Member, str, int]  # protocol, seed
Scores = dict[str, np.ndarray]  # "fcdd", "padim", "fcdd val", "padim val" -> [4 flips, N]


class Pictures:
    """Features of every image at one size by one trunk, computed when first asked for."""

    def __init__(self, paths: list[Path], found: dict[str, Protocol], trunk: str, px: int) -> None:
        self.images = torch.stack([torch.tensor(load_input(path, (px, px), 1)) for path in paths])
        self.trunk = Trunk(trunk, FCDD().settings.stages)
        self.rows = np.unique(np.concatenate([protocol.train for protocol in found.values()]))
        self.place = {int(row): place for place, row in enumerate(self.rows)}
        self.flips = [self._features(part, "images, one flip") for part in flipped(self.images, 4).chunk(4)]
        self._synthetic: dict[int, tuple[Tensor, ...]] = {}

    def synthetic(self, seed: int) -> tuple[Tensor, ...]:
        """Rounds of synthetic defects on every normal image that trains somewhere."""
        if seed not in self._synthetic:
            s = FCDD().settings
            drawn, _ = synthetic_rounds(
                self.images[self.rows], s.synthesiser, s.synthetic_rounds, 32, CPU, seeded(seed, "synthetic")
            )
            self._synthetic[seed] = self._features(drawn, f"synthetic, seed {seed}").chunk(s.synthetic_rounds)
        return self._synthetic[seed]

    def _features(self, images: Tensor, what: str) -> Tensor:
        started = time.perf_counter()
        features = features_of(self.trunk, images, 32, CPU)
        seconds = time.perf_counter() - started
        print(f"  {self.trunk.name}, {images.shape[-1]} px: {len(images)} {what}: {seconds:.0f} s", flush=True)
        return features


class Whitenings:
    """One whitening, or one for each cell type."""

    def __init__(self, features: Tensor, types: np.ndarray, trunk: Trunk) -> None:
        s = FCDD().settings
        self.by_type = {}
        for kind in np.unique(types):
            fitted = Whitening(
                trunk.channels, (features.shape[2], features.shape[3]), "location", s.whitening_floor, s.shrinkage
            )
            fitted.fit(features[types == kind])
            self.by_type[str(kind)] = fitted

    def __call__(self, features: Tensor, types: np.ndarray) -> Tensor:
        """z [N,P,C] float16, each image by the statistics of its type."""
        first = next(iter(self.by_type.values()))
        if len(self.by_type) == 1:
            return first.in_half(features)
        z = torch.empty(len(features), features.shape[2] * features.shape[3], features.shape[1], dtype=torch.float16)
        for kind, whitening in self.by_type.items():
            chosen = torch.from_numpy(np.flatnonzero(types == kind))
            z[chosen] = whitening.in_half(features[chosen])
        return z


def run_member(member: Member, protocol: Protocol, pictures: Pictures, types: np.ndarray, seed: int) -> Scores:
    """FCDD (k = 20) and PaDiM: scores of validation normals and of the test set, for each of four flips."""
    s = FCDD(trunk=member.trunk).settings
    kinds = types if member.by_type else np.full_like(types, "any")
    places = np.array([pictures.place[int(row)] for row in protocol.train])
    known = protocol.known[:KNOWN]
    parts = {
        "normals": (
            torch.cat([pictures.flips[flip][protocol.train] for flip in (0, 1)]),
            np.tile(kinds[protocol.train], 2),
        ),
        "synthetic": (
            torch.cat([part[places] for part in pictures.synthetic(seed)]),
            np.tile(kinds[protocol.train], 2),
        ),
        "known": (torch.cat([flip[known] for flip in pictures.flips]), np.tile(kinds[known], 4)),
    }
    whiten = Whitenings(*parts["normals"], pictures.trunk)
    none = torch.zeros(0, member.px, member.px, dtype=torch.bool)  # masks: not used at image level
    z = {name: whiten(*part) for name, part in parts.items()}
    bank = FeatureBank(z["normals"], z["synthetic"], none, z["known"], none)
    detector = FCDD(trunk=member.trunk)
    with tempfile.TemporaryDirectory() as folder:
        run = FitRun(Path(folder), seed, 0.05, "cpu")
        first = next(iter(whiten.by_type.values()))
        detector.fit_head(pictures.trunk, first, bank, (1, member.px, member.px), run, f"{member.name} {seed}")
    response = detector.fitted.head.response
    padim: Callable[[Tensor], Tensor] = lambda z: z.square().mean(dim=-1).sqrt()  # noqa: E731
    found: Scores = {}
    tuned = (
        _fine_tuned(pictures.trunk, first, response, {n: p for n, (p, _) in parts.items()}, seed)
        if member.fine
        else None
    )
    for name, rows in (("", protocol.test), (" val", protocol.val)):
        fcdd, beside = [], []
        for flip in pictures.flips:
            z_test = whiten(flip[rows], kinds[rows])
            beside.append(_scores(padim, z_test, s.pool()))
            fcdd.append(_scores(response, z_test, s.pool()) if tuned is None else tuned(flip[rows]))
        found |= {f"fcdd{name}": np.stack(fcdd), f"padim{name}": np.stack(beside)}
    return found


@torch.no_grad()
def _scores(response: Callable[[Tensor], Tensor], z: Tensor, share: float) -> np.ndarray:
    maps = torch.cat([response(part.float()) for part in torch.split(z, 128)])
    return pooled(maps, share).double().numpy()


def _fine_tuned(
    trunk: Trunk, whitening: Whitening, response: nn.Module, parts: dict[str, Tensor], seed: int
) -> Callable[[Tensor], np.ndarray]:
    """Stages 5 and 6 and the head trained on from the stored output of stage 4; returns the scoring of such features.

    The rows, the loss and the pooling are those of the head's own training; the whitening stays as it is.
    """
    s = FCDD().settings
    body = copy.deepcopy(nn.Sequential(*trunk.body[5:7])).requires_grad_(True).eval()
    response = copy.deepcopy(response).requires_grad_(True)
    width = TRUNKS[trunk.name].channels[4]
    optimiser = torch.optim.AdamW(
        [{"params": body.parameters(), "lr": FINE_RATE}, {"params": response.parameters(), "lr": 10 * FINE_RATE}],
        weight_decay=s.weight_decay,
    )

    def statistic(features: Tensor) -> Tensor:
        fourth = features[:, :width].float()
        fifth = body[0](fourth)
        sixth = body[1](fifth)
        upper = [nn.functional.interpolate(one, size=fourth.shape[2:], mode="bilinear") for one in (fifth, sixth)]
        return pooled(response(whitening(torch.cat([fourth, *upper], dim=1))), s.pool())

    for step in range(FINE_STEPS):
        draw = seeded(seed, "fine", step)
        loss = torch.zeros(())
        for name, most in (("normals", 64), ("synthetic", 64), ("known", 32)):
            batch = parts[name][some_of(len(parts[name]), most, draw)]
            loss = loss + image_level_loss(statistic(batch), torch.full((len(batch),), name != "normals"), FLOOR).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def scored(features: Tensor) -> np.ndarray:
        return torch.cat([statistic(part) for part in torch.split(features, 128)]).double().numpy()

    return scored


def combined(cells: list[Scores], method: str, flips: int) -> np.ndarray:
    """Scores [N] of some members together: mean over flips, standardised on validation normals, mean over members."""
    total = 0.0
    for cell in cells:
        val, test = (cell[key][:flips].mean(axis=0) for key in (f"{method} val", method))
        total = total + ((test - val.mean()) / val.std() if len(cells) > 1 else test)
    return total / len(cells)


def main() -> None:
    """Run what is missing, name the best, print the table, write benchmarks/results/elpv-family.json."""
    quick = STUDY.start(__doc__, "the first seed and the protocols that choose, alone").quick
    paths, found = protocols(SEARCHED if quick else elpv.PROTOCOLS)
    types = _types(paths, found)

    def measured(members: Sequence[Member], names: Sequence[str], seeds: Sequence[int]) -> dict[Place, Scores]:
        return _cells(paths, found, types, [(one, name, seed) for one in members for seed in seeds for name in names])

    def reached(cells: list[Scores], name: str, flips: int) -> float:
        return auroc(combined(cells, "fcdd", flips), found[name].labels)

    searched = measured(MEMBERS, SEARCHED, SEEDS[:1])
    means = {
        (row, flips): float(
            np.mean([reached([searched[one, name, 0] for one in members], name, flips) for name in SEARCHED])
        )
        for row, members in ROWS.items()
        for flips in (1, 4)
    }
    best, flips = max(means, key=means.__getitem__)
    after = measured((FINE,), ("peer-0",), SEEDS[:1])
    tuned = {"head alone": searched[LITE, "peer-0", 0], "fine-tuned": after[FINE, "peer-0", 0]}
    names, seeds = (SEARCHED, SEEDS[:1]) if quick else (elpv.PROTOCOLS, SEEDS)
    whole = measured(ROWS[best], names, seeds)
    fcdd, padim = (
        {
            name: [combined([whole[m, name, seed] for m in ROWS[best]], method, flips) for seed in seeds]
            for name in names
        }
        for method in ("fcdd", "padim")
    )
    figures = {
        "tried": {row: {"1": means[row, 1], "4": means[row, 4]} for row in ROWS},
        "best": {"row": best, "flips": flips},
        "fine_tuned": {name: reached([cell], "peer-0", 1) for name, cell in tuned.items()},
        "protocols": list(names),
        "rows": {
            "FCDD, best of the family": summarise(fcdd, padim, found),
            "PaDiM, same members and flips": summarise(padim, padim, found),
        },
    }
    STUDY.write(figures, seeds)


def _types(paths: list[Path], found: dict[str, Protocol]) -> np.ndarray:
    from xadflow.datasets.sources.base import Candidate
    from xadflow.datasets.sources.elpv import Elpv

    category = {
        str(one.content): one.category
        for name in found
        for one in Elpv("elpv", {"protocol": name}).candidates()
        if isinstance(one, Candidate)
    }
    return np.array([str(category[str(path)]) for path in paths])


def _cells(paths: list[Path], found: dict[str, Protocol], types: np.ndarray, cells: list[Place]) -> dict[Place, Scores]:
    """Scores of every cell; what is not kept is measured, one trunk and size after the other."""

    @cache
    def pictures(trunk: str, px: int) -> Pictures:
        pictures.cache_clear()  # one at a time fits into memory
        return Pictures(paths, found, trunk, px)

    def make(cell: Place) -> Scores:
        member, name, seed = cell
        return run_member(member, found[name], pictures(member.trunk, member.px), types, seed)

    ordered = sorted(cells, key=lambda cell: (cell[0].trunk, cell[0].px))
    return STUDY.measure(ordered, lambda cell: STUDY.path(f"{cell[0].name}-{cell[1]}-{cell[2]}.npz"), make)


if __name__ == "__main__":
    main()
