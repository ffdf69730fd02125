"""A bank of donors for the toy product, and toy detectors without a map or without a gradient."""

from __future__ import annotations

import pytest
import torch

from tests.explainers.conftest import ToyDetector, patterned
from xadflow.detectors.base import Scores
from xadflow.explainers.transplant import DonorBank
from xadflow.images import as_float


def bank_of(detector, count=24, **settings):
    images = patterned(400, 11)
    with torch.no_grad():
        scores = detector.score(as_float(images)).image
    images = images[scores <= scores.quantile(0.5)][:count]
    ids = tuple(f"{place:064x}" for place in range(len(images)))
    return DonorBank(ids, images, **{"symmetries": "none", "aligned": True, **settings})


@pytest.fixture
def bank(trained):
    return bank_of(trained)


@pytest.fixture
def black_box(trained):
    """The toy detector as a foreign one: a score alone, and no gradient."""

    class BlackBox(ToyDetector):
        def score(self, images):
            with torch.no_grad():
                return Scores(super().score(images.detach()).image)

    return BlackBox(trained.network, trained.input_shape, trained.calibration)
