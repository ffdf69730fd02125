"""What counterfactuals on Coloured-MNIST are compared with; uint8 [N,1,3,28,28].

None of these is trained for the detector, but the first three know its score. `recoloured by hand` is no method: it
knows the strokes, and shows what the figures say of a perfect edit by one concept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.images import CYAN, Coloured, coloured
from benchmarks.counterfactuals_kit.measures import Judged
from benchmarks.counterfactuals_kit.training import normals
from benchmarks.kit.baselines import nearest_normal, reconstructed, searched
from benchmarks.kit.models import fitted, training_data

AUTOENCODER = {
    "network": "cnn28",
    "preparation": "standard",
    "crop_px": 0,
    "flip": False,
    "epochs": 0.01,
    "min_steps": 400,
}
Pixels = NDArray[np.uint8]


def projected(train: Pixels, held: Pixels, seed: int, images: Pixels) -> Pixels:
    """What an autoencoder of `train` makes of the images."""
    return reconstructed(fitted("ae", AUTOENCODER, seed, training_data(train, held)), images)


def by_hand(_: Judged, of: Coloured) -> Pixels:
    """The same strokes in cyan."""
    full = np.where(of.colours == 6, 2, 1)[:, None, None]  # grey is half of white
    strokes = np.minimum(of.images.max(axis=1).astype(np.int64) * full, 255).astype(np.uint8)
    return coloured(strokes, of.digits, np.full(len(of), CYAN)).images[:, None]


BASELINES: Mapping[str, Callable[[Judged, Coloured], Pixels]] = {
    "nearest train normal": lambda judged, of: nearest_normal(judged.detector, normals()[0].images, of.images),
    "l2 attack": lambda judged, of: searched(judged.detector, of.images, p=2.0),
    "sparse": lambda judged, of: searched(judged.detector, of.images),
    "autoencoder": lambda judged, of: projected(*(one.images for one in normals()), judged.seed, of.images),
    "recoloured by hand": by_hand,
}
