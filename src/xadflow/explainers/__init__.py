"""Explainers: `build_explainer(name, **settings)`, and the protocol they share."""

from xadflow.explainers.base import (
    Counterfactual,
    Explainer,
    Explanation,
    ShownImage,
    build_explainer,
    explainer_names,
)

__all__ = ["Counterfactual", "Explainer", "Explanation", "ShownImage", "build_explainer", "explainer_names"]
