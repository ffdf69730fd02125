"""Explainers: `build_explainer(name, **settings)`, and the protocol they share."""

from xadflow.explainers.base import (
    Counterfactual,
    Explainer,
    Explanation,
    ShownImage,
    build_explainer,
    explainer_names,
    why_unfit,
)
from xadflow.explainers.trained import TrainedExplainer, load_explainer, needs_training

__all__ = [
    "Counterfactual",
    "Explainer",
    "Explanation",
    "ShownImage",
    "TrainedExplainer",
    "build_explainer",
    "explainer_names",
    "load_explainer",
    "needs_training",
    "why_unfit",
]
