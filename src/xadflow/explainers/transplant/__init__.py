"""Transplants: what normal images show there, blended in, in the smallest region that makes an image normal."""

from xadflow.explainers.transplant.bank import DonorBank, DonorList
from xadflow.explainers.transplant.explainer import TransplantExplainer
from xadflow.explainers.transplant.settings import TransplantSettings

__all__ = ["DonorBank", "DonorList", "TransplantExplainer", "TransplantSettings"]
