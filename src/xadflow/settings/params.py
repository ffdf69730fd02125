"""params.yaml to frozen typed settings, once, at the edge; unknown keys are refused with the nearest known one named."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from xadflow.errors import BadSettings, UnknownName

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
MethodName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetSettings(_Frozen):
    """One product and one split: where its images come from and what a detector sees of them."""

    source: MethodName
    size_px: Annotated[int, Field(ge=16, le=4096)] = 128
    channels: Literal[1, 3] = 3
    val_share: Share = 0.2
    gate_share: Share = 0.3
    known_used: Count = 20
    options: dict[str, Any] = Field(default_factory=dict)


class DetectorSettings(_Frozen):
    """One detector to train: a registered method and its settings."""

    method: MethodName
    settings: dict[str, Any] = Field(default_factory=dict)


class CalibrationSettings(_Frozen):
    """How a raw score becomes a decision."""

    false_alarm_rate: Share = 0.05


class GateSettings(_Frozen):
    """What a challenger must reach on the gate split; see xadflow.gate."""

    min_auroc: Annotated[float, Field(ge=0.0, le=1.0)] = 0.75
    max_auroc_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    min_flip_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    max_flip_rate_drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    min_change_inside: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    explained: Positive = 48


class RetrainSettings(_Frozen):
    """What the weekly flow trains."""

    datasets: tuple[Name, ...]
    detectors: tuple[MethodName, ...]


class ExplainSettings(_Frozen):
    """What the nightly flow explains, and in which portions."""

    datasets: tuple[Name, ...]
    explainers: tuple[MethodName, ...]
    shard_size: Positive = 100
    batch_size: Positive = 32


class DemoSettings(_Frozen):
    """The night of `xadflow demo`: how many labelled test images stand for new ones."""

    dataset: Name
    anomalies: Positive = 150
    normals: Count = 50


class LimitSettings(_Frozen):
    """What an image file may be at most; above it is quarantined."""

    max_bytes: Positive = 100_000_000
    max_side_px: Positive = 20_000
    max_pixels: Positive = 100_000_000


class EvidenceSettings(_Frozen):
    """Anchors of the ledger beside MLflow, see docs/explanation/threat-model.md; paths are relative to the project.

    `anchor_file` gets every head of the ledger as a line of its own; it belongs to this project alone. `signing_key` is an
    Ed25519 private key, PEM without a passphrase, that signs those lines.
    """

    anchor_file: Path | None = None
    signing_key: Path | None = None

    @model_validator(mode="after")
    def _a_key_has_something_to_sign(self) -> EvidenceSettings:
        if self.signing_key is not None and self.anchor_file is None:
            raise ValueError("signing_key signs the lines of anchor_file, so anchor_file must be set too")
        return self


class NotifySettings(_Frozen):
    """Where a failed flow is reported beside the log: a webhook that takes a JSON POST, or nowhere."""

    webhook: str | None = None


class Settings(_Frozen):
    """All of params.yaml."""

    seed: Count = 0
    device: str = "auto"
    task_runner: Literal["local"] = "local"
    catalogue: tuple[Name, ...]
    datasets: dict[Name, DatasetSettings]
    detectors: dict[MethodName, DetectorSettings]
    explainers: dict[MethodName, dict[str, Any]]
    calibration: CalibrationSettings = CalibrationSettings()
    gate: GateSettings = GateSettings()
    retrain: RetrainSettings
    explain: ExplainSettings
    demo: DemoSettings
    limits: LimitSettings = LimitSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    notify: NotifySettings = NotifySettings()

    @model_validator(mode="after")
    def _names_exist(self) -> Settings:
        if sorted(self.catalogue) != sorted(self.datasets):
            odd = sorted(set(self.catalogue) ^ set(self.datasets))
            raise ValueError(f"catalogue must name each data set under datasets once; differs in {odd}")
        for where, names, known in (
            ("retrain.datasets", self.retrain.datasets, self.datasets),
            ("retrain.detectors", self.retrain.detectors, self.detectors),
            ("explain.datasets", self.explain.datasets, self.datasets),
            ("explain.explainers", self.explain.explainers, self.explainers),
            ("demo.dataset", (self.demo.dataset,), self.datasets),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"{where} names {name!r}, which is none of {sorted(known)}")
        return self

    def dataset(self, name: str) -> DatasetSettings:
        """Settings of a data set. Raises UnknownName."""
        if name not in self.datasets:
            near = difflib.get_close_matches(name, list(self.datasets), n=1)
            raise UnknownName("no data set of that name in params.yaml", seen=name,
                              next_step=f"use {near[0]!r}" if near else f"one of {sorted(self.datasets)}, or add it "
                              "by `xadflow data add NAME DIR`")  # fmt: skip
        return self.datasets[name]

    def detector(self, name: str) -> DetectorSettings:
        """Settings of a detector. Raises UnknownName."""
        if name not in self.detectors:
            near = difflib.get_close_matches(name, list(self.detectors), n=1)
            raise UnknownName("no detector of that name in params.yaml", seen=name,
                              next_step=f"use {near[0]!r}" if near else f"one of {sorted(self.detectors)}")  # fmt: skip
        return self.detectors[name]

    def explainer(self, name: str) -> dict[str, Any]:
        """Settings of an explainer. Raises UnknownName."""
        if name not in self.explainers:
            raise UnknownName("no explainer of that name in params.yaml", seen=name,
                              next_step=f"use one of {sorted(self.explainers)}")  # fmt: skip
        return dict(self.explainers[name])


def load_settings(path: Path) -> Settings:
    """Read params.yaml. Raises BadSettings that names the key, the value and the nearest known key."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise BadSettings("params.yaml cannot be read", seen=f"{path.name}: {err.strerror}",
                          next_step="restore it, e.g. by `git checkout params.yaml`") from err  # fmt: skip
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise BadSettings("params.yaml is not valid YAML", seen=" ".join(str(err).split())[:300],
                          next_step="mend the line named") from err  # fmt: skip
    if not isinstance(raw, dict):
        raise BadSettings("params.yaml must be a mapping", seen=type(raw).__name__, next_step="see README")
    try:
        return Settings.model_validate(raw)
    except ValidationError as err:
        raise _explained(err) from err


def _explained(err: ValidationError) -> BadSettings:
    first = err.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "params.yaml"
    more = f" (and {err.error_count() - 1} more)" if err.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return BadSettings(f"unknown key {where} in params.yaml{more}", seen=first["input"],
                           next_step=f"did you mean {near[0]!r}?" if near else f"known keys: {known}")  # fmt: skip
    value = first["input"] if not isinstance(first["input"], dict) else f"keys {sorted(map(str, first['input']))}"
    return BadSettings(f"{where} in params.yaml: {first['msg']}{more}", seen=value,
                       next_step="mend this key; README and params.yaml say what it means")  # fmt: skip


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Field names of the settings model at a location, walking through mappings by their value type."""
    model: type[BaseModel] = Settings
    steps = [part for part in location if isinstance(part, str)]
    while steps:
        annotation = model.model_fields[steps.pop(0)].annotation
        inner = [kind for kind in get_args(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif inner:
            model = inner[0]
            steps = steps[1:]  # the mapping's own key
        else:
            return []
    return sorted(model.model_fields)
