"""Names of the tags that models and runs carry in MLflow: a contract, read from outside, so that none may change."""

from __future__ import annotations

# of a version: what it was trained from and as what it was registered
TRAINING_KEY, DATA_MD5, WEIGHTS_SHA256 = "xadflow.training_key", "xadflow.data_md5", "xadflow.weights"
FILES = "xadflow.files"  # its files by sha256, as JSON
DONORS = "xadflow.donors"  # how large a bank of donors it was asked to keep
JUDGE_APART = "xadflow.judge_apart"  # "true" where a judge was fitted on no image that may give donors
RECALIBRATED_FROM = "xadflow.recalibrated_from"  # the version whose weights it has, with another false-alarm rate
EXPLAINS_VERSION, EXPLAINS_WEIGHTS = "xadflow.explains_version", "xadflow.explains_weights"  # of a trained explainer

# of a version: what the gate said, why, and to which question
GATE, GATE_REASONS, GATE_KEY = "xadflow.gate", "xadflow.gate_reasons", "xadflow.gate_key"
GATE_FEATURES = "xadflow.gate_features"  # which features a trained explainer was compared by
PASSED, REFUSED, UNMEASURED = "passed", "refused", "not measured"  # values of GATE
BY_HAND = "xadflow.promoted"  # on an explainer that a person put into service whatever the gate said

# of a registered model
PREVIOUS = "xadflow.previous_champion"  # what rollback goes back to

# of a run: the figures of a night, and a block of anchored heads of the ledger
MODEL_NAME, MODEL_VERSION, KIND = "xadflow.model_name", "xadflow.model_version", "xadflow.kind"
LEDGER_BLOCK = "xadflow.ledger.block"
HEADS = "xadflow.ledger.heads"  # a parameter: MLflow lets nobody change one
