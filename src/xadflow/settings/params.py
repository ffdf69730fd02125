"""params.yaml to frozen typed settings, once, at the edge; unknown keys are refused with the nearest known
one named.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from xadflow.errors import BadSettings, unknown_name
from xadflow.settings.blocks import (
    CalibrationSettings,
    Count,
    DatasetSettings,
    DemosSettings,
    DetectorSettings,
    EvidenceSettings,
    ExplainSettings,
    Frozen,
    GateSettings,
    LimitSettings,
    MethodName,
    Name,
    NotifySettings,
    RetrainSettings,
    WebAddress,
)
from xadflow.settings.environment import Home
from xadflow.settings.params_errors import NOT_SHOWN, ODD_CATALOGUE, UNKNOWN_NAME, explained
from xadflow.settings.plain_yaml import CHECK, plain_values

_WEB_ADDRESS = TypeAdapter(WebAddress)


class Settings(Frozen):
    """All of params.yaml."""

    seed: Count = 0
    device: str = "auto"
    task_runner: Literal["local", "dask", "ray"] = "local"
    catalogue: tuple[Name, ...]
    datasets: dict[Name, DatasetSettings]
    detectors: dict[MethodName, DetectorSettings]
    explainers: dict[MethodName, dict[str, Any]]
    calibration: CalibrationSettings = CalibrationSettings()
    gate: GateSettings = GateSettings()
    retrain: RetrainSettings
    explain: ExplainSettings
    demo: DemosSettings
    limits: LimitSettings = LimitSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    notify: NotifySettings = NotifySettings()

    @model_validator(mode="after")
    def _names_exist(self) -> Settings:
        odd = sorted(
            name
            for name in {*self.catalogue, *self.datasets}
            if self.catalogue.count(name) != 1 or name not in self.datasets
        )
        if odd:
            raise PydanticCustomError(ODD_CATALOGUE, "catalogue", {"seen": odd})
        if "judge" in self.detectors:
            raise ValueError("no detector may be named `judge`: xad.<dataset>.judge is the judge of a data set")
        named: tuple[tuple[str, tuple[str, ...], Collection[str]], ...] = (
            ("retrain.datasets", self.retrain.datasets, self.datasets),
            ("retrain.detectors", self.retrain.detectors, self.detectors),
            ("explain.datasets", self.explain.datasets, self.datasets),
            ("explain.explainers", self.explain.explainers, self.explainers),
            *(
                entry
                for where, night in (("demo", self.demo), ("demo.diverse", self.demo.diverse))
                if night
                for entry in (
                    (f"{where}.dataset", (night.dataset,), self.datasets),
                    (f"{where}.detector", (night.detector,) if night.detector else (), self.detectors),
                )
            ),
            ("retrain.explainers", tuple(self.retrain.explainers), self.explainers),
            *(
                (f"retrain.explainers.{name}.datasets", one.datasets, self.datasets)
                for name, several in self.retrain.explainers.items()
                for one in several
            ),
            *(
                (f"retrain.explainers.{name}.detectors", one.detectors, self.detectors)
                for name, several in self.retrain.explainers.items()
                for one in several
            ),
            *(
                (f"datasets.{name}.outliers", (one.outliers,), self.datasets)
                for name, one in self.datasets.items()
                if one.outliers
            ),
        )
        for where, names, known in named:
            for name in names:
                if name not in known:
                    raise PydanticCustomError(
                        UNKNOWN_NAME, "name", {"where": where, "seen": name, "known": sorted(known)}
                    )
        return self

    def dataset(self, name: str) -> DatasetSettings:
        """Settings of a data set. Raises UnknownName."""
        if name not in self.datasets:
            add = ", or add it by `xadflow data add NAME DIR`"
            raise unknown_name("no data set of that name in params.yaml", name, self.datasets, add)
        return self.datasets[name]

    def false_alarm_rate(self, dataset: str) -> float:
        """Share of a data set's new normals that may be flagged: its own, else calibration's. Raises UnknownName."""
        own = self.dataset(dataset).false_alarm_rate
        return self.calibration.false_alarm_rate if own is None else own

    def detector(self, name: str) -> DetectorSettings:
        """Settings of a detector. Raises UnknownName."""
        if name not in self.detectors:
            raise unknown_name("no detector of that name in params.yaml", name, self.detectors)
        return self.detectors[name]

    def explainer(self, name: str) -> dict[str, Any]:
        """Settings of an explainer. Raises UnknownName."""
        if name not in self.explainers:
            raise unknown_name("no explainer of that name in params.yaml", name, self.explainers)
        return dict(self.explainers[name])

    def trained_explainers(self, dataset: str, detector: str) -> list[str]:
        """Explainers that are trained for this detector's champions on this data set."""
        return [
            name
            for name, several in self.retrain.explainers.items()
            if any(dataset in one.datasets and detector in one.detectors for one in several)
        ]

    def explainer_for(self, name: str, dataset: str, detector: str) -> dict[str, Any]:
        """Settings of an explainer for this detector on this data set: its own, and before them those of its training
        there.

        Raises UnknownName.
        """
        own = self.explainer(name)
        for one in self.retrain.explainers.get(name, ()):
            if dataset in one.datasets and detector in one.detectors:
                return {**own, **one.settings}
        return own

    def nightly_explainers(self, dataset: str, detector: str) -> list[str]:
        """Explainers of a night: explain.explainers, then those that are trained for this detector."""
        return list(dict.fromkeys([*self.explain.explainers, *self.trained_explainers(dataset, detector)]))


def load_settings(path: Path) -> Settings:
    """Read params.yaml. Raises BadSettings that names the key, the value and the nearest known key."""
    try:
        raw = plain_values(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise BadSettings(
            "params.yaml cannot be read",
            seen=f"{path.name}: {err.strerror}",
            next_step="restore it, e.g. by `git checkout params.yaml`",
        ) from err
    except UnicodeDecodeError as err:
        raise BadSettings(
            "params.yaml is not UTF-8 text",
            seen=" ".join(str(err).split())[:200],
            next_step=f"save it as UTF-8; {CHECK}",
        ) from err
    if not isinstance(raw, dict):
        raise BadSettings(
            "params.yaml must be a mapping",
            seen=type(raw).__name__,
            next_step=f"restore it, e.g. by `git checkout params.yaml`; {CHECK}",
        )
    try:
        return Settings.model_validate(raw)
    except ValidationError as err:
        raise explained(err, Settings) from err


def webhook_address(home: Home, settings: Settings | None) -> str | None:
    """Where a failed flow is reported: $XADFLOW_WEBHOOK, else notify.webhook, else None. Keep it out of every log.

    Raises BadSettings, which does not show it either.
    """
    if home.webhook is None:
        webhook = settings.notify.webhook if settings is not None else None
        return webhook.get_secret_value() if webhook is not None else None
    try:
        return _WEB_ADDRESS.validate_python(home.webhook).get_secret_value()
    except ValidationError:
        raise BadSettings(
            "XADFLOW_WEBHOOK must be an address http://... or https://...",
            seen=NOT_SHOWN,
            next_step="set it anew, or unset it",
        ) from None
