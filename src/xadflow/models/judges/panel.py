"""The judges of a data set: found in the registry, opened, and asked about images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.base import CARD, Detector
from xadflow.detectors.scoring import open_detector, score_images
from xadflow.errors import BadWeights
from xadflow.explainers.base import Counterfactual, Explanation, Judgement
from xadflow.images.reading import MOST_BITS
from xadflow.models.judges.choice import trunk_in
from xadflow.models.registry import Registry
from xadflow.models.tags import JUDGE_APART
from xadflow.models.versions import DETECTOR_WEIGHTS, ModelRef, judge_of
from xadflow.settings import Settings
from xadflow.settings.blocks import fitting
from xadflow.settings.judges import why_no_judge

JUDGE = "judge"  # alias of the version that is asked
BATCH = 32  # images of one pass; fixed, because sums of other batches differ in their last bits
Heard = dict[tuple[object, ...], list[list[Judgement]]]  # answers by judges and batch, see `ask`
SCORE, FLAGS = "judge_score", "judge_flags"  # metrics of an explanation: what a judge says of the image itself


@dataclass(frozen=True)
class JudgeRef:
    """A registered judge as a plan holds it; `shares_trunk`: it looks through the same trunk as the judged detector."""

    name: str
    version: int
    folder: str
    weights: str
    apart: bool
    shares_trunk: bool = False

    def lineage(self) -> dict[str, Any]:
        """What a row's lineage says of it."""
        return {
            "model_name": self.name,
            "model_version": self.version,
            "weights": self.weights,
            "apart": self.apart,
            "shares_trunk": self.shares_trunk,
        }


@dataclass(frozen=True)
class Panel:
    """The judges of a data set, and where there is none the reason; `wanted`: params.yaml asks for one."""

    judges: tuple[JudgeRef, ...]
    why_none: str | None = None
    wanted: bool = True


@dataclass(frozen=True)
class Judge:
    """An open judge."""

    ref: JudgeRef
    detector: Detector
    device: torch.device


def find_judges(settings: Settings, registry: Registry, dataset: str, detector: Path | None = None) -> Panel:
    """The judges in service of a data set. `detector` is the folder of the detector whose counterfactuals are judged.

    Raises BadWeights when a judge's files are not those registered.
    """
    if (reason := why_no_judge(settings, dataset)) is not None:
        return Panel((), reason, wanted=False)
    ref = registry.alias(judge_of(dataset), JUDGE)
    if ref is None:
        return Panel((), f"No judge of {dataset} is registered; `xadflow retrain --dataset {dataset}` fits it.")
    folder = registry.detector_folder(ref)
    its, theirs = _card(folder), _card(detector)
    if theirs and its.get("input_shape") != theirs.get("input_shape", its.get("input_shape")):
        return Panel(
            (),
            f"{ref.name} version {ref.version} sees images of shape {its.get('input_shape')}, the detector of "
            f"{theirs['input_shape']}; `xadflow retrain --dataset {dataset}` fits it anew.",
        )
    bits = [card.get("bit_depth", MOST_BITS) for card in (its, theirs)]
    if theirs and bits[0] != bits[1]:
        return Panel(
            (),
            f"{ref.name} version {ref.version} sees grey values of {bits[0]} bits, the detector of {bits[1]}; `xadflow "
            f"retrain --dataset {dataset}` fits both anew.",
        )
    trunk = trunk_in(_Settings(its))
    return Panel((_ref(ref, folder, trunk is not None and trunk == trunk_in(_Settings(theirs))),))


def _ref(ref: ModelRef, folder: Path, shares_trunk: bool) -> JudgeRef:
    return JudgeRef(
        ref.name,
        ref.version,
        str(folder),
        ref.files.get(DETECTOR_WEIGHTS, ""),
        ref.tags.get(JUDGE_APART) == "true",
        shares_trunk,
    )


class _Settings:
    """Settings of a saved detector's card, as attributes."""

    def __init__(self, card: dict[str, Any]) -> None:
        given = card.get("settings")
        self.trunk, self.network = (given.get(key) if isinstance(given, dict) else None for key in ("trunk", "network"))


def _card(folder: Path | None) -> dict[str, Any]:
    """detector.json, {} where it cannot be read: opening the detector says what is wrong with it."""
    try:
        return dict(json.loads((folder / CARD).read_text(encoding="utf-8"))) if folder is not None else {}
    except (OSError, ValueError, TypeError):
        return {}


def judges_lineage(refs: Sequence[JudgeRef]) -> dict[str, Any]:
    """What the lineage of a row with counterfactuals says of the judges that were asked; {} without any.

    `judge_apart`: none of them was fitted on an image that may give donors.
    """
    return {"judges": [ref.lineage() for ref in refs], "judge_apart": all(ref.apart for ref in refs)} if refs else {}


def open_judges(refs: Sequence[JudgeRef], device: torch.device) -> tuple[Judge, ...]:
    """Judges ready to be asked; one a process. Raises BadWeights."""
    return tuple(Judge(ref, _opened(ref.folder, ref.weights, device), device) for ref in refs)


@lru_cache(maxsize=4)
def _opened(folder: str, weights: str, device: torch.device) -> Detector:
    from xadflow.digests import sha256_file

    if (found := sha256_file(Path(folder) / DETECTOR_WEIGHTS)) != weights:
        raise BadWeights(
            "the judge's weights changed since the work was planned",
            seen=found[:16],
            next_step="run the same command again",
        )
    return open_detector(Path(folder), device)


def ask(
    judges: Sequence[Judge], pixels: NDArray[np.uint8] | Tensor, heard: Heard | None = None
) -> list[list[Judgement]]:
    """What each judge says of uint8 images [N,C,H,W], image by image; without judges an empty list for each.

    With `heard`, the answer is kept there, and the same judges are not asked about the same batch again.
    """
    images = torch.as_tensor(pixels)
    if heard is None:
        return _asked(judges, images)
    batch = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()  # whole: in other company sums may differ
    question = (tuple(judge.ref for judge in judges), tuple(images.shape), batch)
    if question not in heard:
        heard[question] = _asked(judges, images)
    return heard[question]


def _asked(judges: Sequence[Judge], images: Tensor) -> list[list[Judgement]]:
    said: list[list[Judgement]] = [[] for _ in range(len(images))]
    for judge in judges:
        scores = score_images(judge.detector, images, fitting(BATCH, images.shape[1:]), judge.device)
        threshold = judge.detector.calibration.threshold
        for words, score in zip(said, scores, strict=True):
            normal = bool(score <= threshold)
            words.append(Judgement(judge.ref.name, judge.ref.version, float(score), threshold, normal))
    return said


def with_words(
    judges: Sequence[Judge], told: Sequence[Explanation], images: NDArray[np.uint8] | Tensor, heard: Heard | None = None
) -> list[Explanation]:
    """Explanations of uint8 images [N,C,H,W] with the judges' words beside their counterfactuals.

    What the first judge says of the image itself becomes the metrics `judge_score` and `judge_flags` (0 or 1), those of
    further judges `judge_score.1` and so on: what it did not flag it cannot call mended. Explanations without
    counterfactuals stay as they are. `heard` is what was said of the images themselves, shared by the explainers of a
    batch.
    """
    at = [place for place, one in enumerate(told) if one.counterfactuals]
    if not judges or not at:
        return list(told)
    before = dict(zip(at, ask(judges, torch.as_tensor(images)[at], heard), strict=True))
    made = np.stack([found.image for place in at for found in told[place].counterfactuals])
    after = iter(ask(judges, made))
    full = list(told)
    for place in at:
        own = {
            f"{name}{f'.{number}' if number else ''}": value
            for number, word in enumerate(before[place])
            for name, value in ((SCORE, word.score), (FLAGS, float(not word.is_normal)))
        }
        answers: tuple[Counterfactual, ...] = tuple(
            replace(found, judges=tuple(next(after))) for found in told[place].counterfactuals
        )
        full[place] = replace(told[place], counterfactuals=answers, metrics={**told[place].metrics, **own})
    return full
