"""Settings: params.yaml as frozen typed values, and the environment (folders, quiet and offline switches)."""

from xadflow.settings.blocks import (
    CalibrationSettings,
    DatasetSettings,
    DemoSettings,
    DetectorSettings,
    EvidenceSettings,
    ExplainSettings,
    GateSettings,
    GeneratorGateSettings,
    JudgeSettings,
    LimitSettings,
    NotifySettings,
    RetrainSettings,
    TrainedForSettings,
)
from xadflow.settings.environment import Home, dvc_stage, interactive_environment, quiet_environment
from xadflow.settings.params import Settings, load_settings, webhook_address
from xadflow.settings.writable import check_writable

__all__ = [
    "CalibrationSettings",
    "DatasetSettings",
    "DemoSettings",
    "DetectorSettings",
    "EvidenceSettings",
    "ExplainSettings",
    "GateSettings",
    "GeneratorGateSettings",
    "Home",
    "JudgeSettings",
    "LimitSettings",
    "NotifySettings",
    "RetrainSettings",
    "Settings",
    "TrainedForSettings",
    "check_writable",
    "dvc_stage",
    "interactive_environment",
    "load_settings",
    "quiet_environment",
    "webhook_address",
]
