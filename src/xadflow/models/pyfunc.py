"""The model that MLflow serves: models-from-code, so that nothing of it is pickled.

MLflow copies this file beside the detector's own files and runs it again at load. A detector of any method is found by
its `detector.json`; the environment that loads it needs xadflow installed (see requirements.txt in the model's folder).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, Schema, TensorSpec
from numpy.typing import NDArray

from xadflow.detectors import Detector, as_float, load_detector
from xadflow.errors import BadInput

DETECTOR = "detector"  # name under which registry.py logs the detector's folder
_SHIPPED = ("xadflow", "mlflow", "torch", "safetensors", "numpy", "pandas")
_CHUNK = 64  # images scored at once: bounds the memory of a large request


class DetectorModel(PythonModel):
    """A registered detector behind MLflow's predict: uint8 [B,C,H,W] in, one row an image out."""

    detector: Detector

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector. Raises BadWeights or UnknownName (its method is not installed here)."""
        self.detector = load_detector(Path(context.artifacts[DETECTOR]))

    # A plain np.ndarray is the one tensor hint that MLflow takes without a warning; the signature says dtype and shape.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Frame with score, threshold, p_value (float64) and is_anomaly (bool), in the order of the images.

        Raises:
            BadInput: another dtype or shape than uint8 [B, *input_shape].
        """
        return _rows(self.detector, model_input)


def save_pyfunc(
    target: Path, detector_folder: Path, input_shape: tuple[int, int, int], run_id: str, model_id: str
) -> None:
    """Write the folder that MLflow registers: this file, the detector's files, signature and requirements.

    `detector_folder` must be named as `DETECTOR` says. Requirements are pinned to what is installed: no network.
    """
    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=__file__,
        artifacts={DETECTOR: str(detector_folder)},
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *input_shape))]),
            outputs=Schema(
                [
                    ColSpec("double", "score"),
                    ColSpec("double", "threshold"),
                    ColSpec("double", "p_value"),
                    ColSpec("boolean", "is_anomaly"),
                ]
            ),
        ),
        pip_requirements=[f"{name}=={version(name)}" for name in _SHIPPED],
        mlflow_model=Model(artifact_path=DETECTOR, run_id=run_id, model_id=model_id),
    )


def _rows(detector: Detector, images: object) -> pd.DataFrame:
    pixels = _checked(images, detector.input_shape)
    scores = np.zeros(len(pixels), dtype=np.float64)
    with torch.inference_mode():
        for start in range(0, len(pixels), _CHUNK):
            batch = torch.from_numpy(pixels[start : start + _CHUNK].copy())  # a request's array may be read-only
            scores[start : start + _CHUNK] = detector.score(as_float(batch)).image.double().cpu().numpy()
    calibration = detector.calibration
    return pd.DataFrame(
        {
            "score": scores,
            "threshold": np.full(len(scores), calibration.threshold),
            "p_value": calibration.p_value(scores),
            "is_anomaly": scores > calibration.threshold,
        }
    )


def _checked(images: object, input_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != tuple(input_shape):
        kind = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise BadInput(
            f"images must be uint8 [B, {', '.join(map(str, input_shape))}]",
            seen=kind,
            next_step="decode and resize them as `xadflow score` does",
        )
    return images


mlflow.models.set_model(DetectorModel())
