"""Settings: params.yaml as frozen typed values, and the environment (folders, quiet and offline switches)."""

from xadflow.settings.environment import Home, dvc_stage, interactive_environment, quiet_environment
from xadflow.settings.params import (
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
    Settings,
    TrainedForSettings,
    load_settings,
    webhook_address,
)

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
    "dvc_stage",
    "interactive_environment",
    "load_settings",
    "quiet_environment",
    "webhook_address",
]
