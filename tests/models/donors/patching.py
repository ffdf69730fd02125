"""An explainer that takes donors and needs nothing else: the middle of the image comes from a donor, one donor a
concept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xadflow.explainers import base
from xadflow.explainers.base import Counterfactual, Explanation, ShownImage
from xadflow.explainers.settings import ExplainerSettings, SettledExplainer, eight_bit
from xadflow.images import as_float
from xadflow.metrics.explanation import l1_l2_changed


class PatchSettings(ExplainerSettings):
    """`bank`: how many donors a version may have."""

    bank: int = 12
    alternatives: int = 2


class PatchExplainer(SettledExplainer[PatchSettings]):
    """Raises AttributeError without donors."""

    name = "patch"
    code_version = "1"
    settings_kind = PatchSettings
    bank = None

    def with_donors(self, bank):
        given = PatchExplainer(**self.settings.model_dump())
        given.bank = bank
        return given

    def explain(self, detector, images):
        x = eight_bit(detector, images)
        return [self._one(detector, one) for one in x.cpu()]

    def _one(self, detector, original):
        channels, height, width = original.shape
        places = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
        mask = np.zeros((1, height, width), np.uint8)
        mask[(0, *places)] = 255
        made, shown = [], []
        for concept in range(min(self.settings.alternatives, len(self.bank.ids))):
            image = original.clone()
            image[(slice(None), *places)] = self.bank.images[concept][(slice(None), *places)]
            with torch.no_grad():
                score = float(detector.score(as_float(image[None])).image[0])
            calibration = detector.calibration
            made.append(
                Counterfactual(
                    concept,
                    image.numpy(),
                    score,
                    float(calibration.p_value(np.array([score]))[0]),
                    score <= calibration.threshold,
                    *l1_l2_changed(original.numpy(), image.numpy()),
                    donor_id=self.bank.ids[concept],
                )
            )
            shown.append(ShownImage(f"transplant.{concept}.region", mask, 0.0, 1.0))
        share = float((mask > 0).mean())
        metrics = {
            "region_share": share,
            "donors": float(len(self.bank.ids)),
            "donors_missing": float(self.bank.missing),
            **{f"region_share.{k}": share for k in range(len(made))},
        }
        return Explanation(counterfactuals=tuple(made), images=tuple(shown), metrics=metrics)


@contextmanager
def patch_registered() -> Iterator[None]:
    """The explainer `patch` is registered beside all others."""
    everything = {**base._explainers(), "patch": SimpleNamespace(load=lambda: PatchExplainer)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base, "_explainers", lambda: everything)
        yield
