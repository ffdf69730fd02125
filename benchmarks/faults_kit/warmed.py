"""Imported by the parent of all children: what is imported or computed late by design, here once for all of them."""

import alembic.command
import deltalake.fs
import jinja2
import matplotlib.backends.backend_agg
import matplotlib.pyplot
import mlflow.store.model_registry.sqlalchemy_workspace_store
import mlflow.store.tracking.sqlalchemy_workspace_store
import timm
from PIL import Image

import xadflow.datasets.inbox
import xadflow.datasets.quality_frames
import xadflow.detectors.fcdd.detector
import xadflow.explainers.heatmap
import xadflow.explainers.sparse.explainer
import xadflow.work.night.finish
import xadflow.work.week
from xadflow.datasets.quality import _library
from xadflow.lineage import DETECTOR_CODE, NIGHT_CODE, code_digest, library_versions

LATE = (
    alembic.command,
    deltalake.fs,
    jinja2,
    matplotlib.backends.backend_agg,
    matplotlib.pyplot,
    timm,
    xadflow.datasets.inbox,
    mlflow.store.model_registry.sqlalchemy_workspace_store,
    mlflow.store.tracking.sqlalchemy_workspace_store,
    xadflow.datasets.quality_frames,
    xadflow.detectors.fcdd.detector,
    xadflow.explainers.heatmap,
    xadflow.explainers.sparse.explainer,
    xadflow.work.night.finish,
    xadflow.work.week,
)

Image.init()
_library()
for parts in (NIGHT_CODE, DETECTOR_CODE):
    code_digest(*parts)  # of the code that the children run, also when a file is edited meanwhile
library_versions()
