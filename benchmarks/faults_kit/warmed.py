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

import xadflow.data.inbox
import xadflow.data.quality_frames
import xadflow.detectors.fcdd
import xadflow.explainers.heatmap
import xadflow.explainers.sparse
import xadflow.nightly.finish
import xadflow.retraining
from xadflow.data.quality import _library
from xadflow.lineage import code_digest, library_versions
from xadflow.nightly.plan import CODE as NIGHT_CODE
from xadflow.retraining.train import CODE as TRAINING_CODE

LATE = (
    alembic.command, deltalake.fs, jinja2, matplotlib.backends.backend_agg, matplotlib.pyplot, timm, xadflow.data.inbox,
    mlflow.store.model_registry.sqlalchemy_workspace_store, mlflow.store.tracking.sqlalchemy_workspace_store,
    xadflow.data.quality_frames, xadflow.detectors.fcdd, xadflow.explainers.heatmap, xadflow.explainers.sparse,
    xadflow.nightly.finish, xadflow.retraining,
)  # fmt: skip

Image.init()
_library()
for parts in (NIGHT_CODE, TRAINING_CODE):
    code_digest(*parts)  # of the code that the children run, also when a file is edited meanwhile
library_versions()
