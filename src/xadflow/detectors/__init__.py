"""Detectors: `build_detector(name, **settings)`, and the protocol they share."""

from xadflow.detectors.base import (
    Detector,
    FitReport,
    FitRun,
    Scores,
    TrainingData,
    build_detector,
    detector_names,
    load_detector,
)
from xadflow.images import as_float

__all__ = [
    "Detector",
    "FitReport",
    "FitRun",
    "Scores",
    "TrainingData",
    "as_float",
    "build_detector",
    "detector_names",
    "load_detector",
]
