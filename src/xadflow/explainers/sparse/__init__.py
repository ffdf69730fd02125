"""Sparse counterfactuals (SVCE, arXiv 2205.07972): the smallest change, in an lp ball with p near 1, that makes an
image normal.
"""

from xadflow.explainers.sparse.explainer import SparseExplainer
from xadflow.explainers.sparse.oracle import linear_maximisation_oracle

__all__ = ["SparseExplainer", "linear_maximisation_oracle"]
