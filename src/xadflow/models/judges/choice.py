"""Which judge a data set has: the method and settings of params.yaml, and a trunk that its detectors do not have."""

from __future__ import annotations

from typing import Any

from xadflow.detectors.base import build_detector, traits
from xadflow.networks.pretrained import TRUNKS
from xadflow.settings import DetectorSettings, Settings
from xadflow.settings.judges import why_no_judge

DEFAULT_TRUNK = "mobilenet_v2"


def judge_choice(settings: Settings, dataset: str) -> DetectorSettings | None:
    """Method and whole settings of a data set's judge, None for one without; see `xadflow.settings.judges`.

    A trunk that is not named is one that no detector of `retrain.detectors` has: MobileNetV2 beside the default `fcdd`.
    Where they have both, it is MobileNetV2, and the lineage of a row whose detector has the same trunk says so.
    """
    if why_no_judge(settings, dataset) is not None:
        return None
    chosen = settings.dataset(dataset).judge
    assert chosen is not None
    if chosen.method != "padim" or "trunk" in chosen.settings:
        return DetectorSettings(method=chosen.method, settings=chosen.settings)
    used = {trunk_of(settings, name) for name in settings.retrain.detectors}
    free = [name for name in (DEFAULT_TRUNK, *sorted(TRUNKS)) if name not in used]
    return DetectorSettings(method="padim", settings={"trunk": (free or [DEFAULT_TRUNK])[0], **chosen.settings})


def trunk_of(settings: Settings, detector: str) -> str | None:
    """The packaged trunk that a detector of params.yaml looks through, None for one with a network of its own."""
    chosen = settings.detector(detector)
    return trunk_in(traits(build_detector(chosen.method, **chosen.settings)).settings)


def trunk_in(built: Any) -> str | None:
    """The packaged trunk among a built detector's settings, by `trunk` or `network`."""
    for key in ("trunk", "network"):
        if (name := getattr(built, key, None)) in TRUNKS:
            return str(name)
    return None
