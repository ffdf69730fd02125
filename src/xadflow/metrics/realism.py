"""How far a set of made images is from the normal ones, in the features of a stated network: Frechet and kernel
distance.

Features are float [N,D] of one network that is not the explained detector. Everything is in float64: with N near D the
covariances are singular, and float32 square roots of them are noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput

Features = NDArray[np.floating]


def frechet_distance(first: Features, second: Features) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the Gaussians fitted to both (Heusel et al., NIPS 2017).

    The trace of the root is a sum of singular values of factors of S1 and S2, so it is real and never negative. The
    estimate is biased upwards for few images: compare sets of one size.

    Raises:
        BadInput: not two sets [N,D] of at least two finite vectors of one length.
    """
    one, other = _checked(first), _checked(second)
    if one.shape[1] != other.shape[1]:
        raise BadInput(
            "both sets of features have one length",
            seen=(one.shape, other.shape),
            next_step="take both from the same network",
        )
    roots: list[NDArray[np.float64]] = []
    traces = 0.0
    for features in (one, other):
        centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
        roots.append(np.asarray(np.linalg.qr(centred, mode="r")))  # R with R^T R = S, of at most D rows
        traces += float(np.square(centred).sum())
    # (S1 S2)^(1/2) has the eigenvalues that are the singular values of R1 R2^T
    overlap = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    apart = float(np.square(one.mean(axis=0) - other.mean(axis=0)).sum())
    return max(apart + traces - 2.0 * overlap, 0.0)


def normalised_frechet(made: Features, normals: Features, anomalies: Features) -> float:
    """FID_N of arXiv 2402.14469: 100 * FID(made, normals) / FID(anomalies, normals); 100: no nearer than the anomalies.

    Of images that show one of several modes of the normal class it is high however good they are: give it the union of
    the concepts (docs/explanation/methods.md, "Diverse counterfactuals").

    Raises:
        BadInput: the anomalies are not apart from the normals at all.
    """
    span = frechet_distance(anomalies, normals)
    if span <= 1e-9:
        raise BadInput(
            "anomalies and normals have the same features", seen=span, next_step="take another feature network"
        )
    return 100.0 * frechet_distance(made, normals) / span


def kernel_distance(first: Features, second: Features) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (KID, Binkowski et al., ICLR 2018); can be below 0.

    Unlike the Frechet distance it is not biased for few images. Raises BadInput as :func:`frechet_distance`.
    """
    one, other = _checked(first), _checked(second)
    if one.shape[1] != other.shape[1]:
        raise BadInput(
            "both sets of features have one length",
            seen=(one.shape, other.shape),
            next_step="take both from the same network",
        )

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((a @ b.T / a.shape[1] + 1.0) ** 3, dtype=np.float64)

    def within(a: NDArray[np.float64]) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return within(one) + within(other) - 2.0 * float(kernel(one, other).mean())


def _checked(features: Features) -> NDArray[np.float64]:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise BadInput(
            "features are [N,D] of at least two finite vectors",
            seen=values.shape,
            next_step="look at the images or the network that gave them",
        )
    return values
