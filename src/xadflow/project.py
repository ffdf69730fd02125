"""A project, opened once and handed on: where it is, its settings, its models, its evidence and the device it works on.

Every part is opened when it is first asked for, so that a command pays only for what it uses: MLflow with `registry`,
Delta Lake with `store`, torch with `device`.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING

from xadflow.settings import EvidenceSettings, Home, Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from xadflow.evidence.ledger import LedgerHead
    from xadflow.evidence.store import EvidenceStore
    from xadflow.models.registry import Registry


class Project:
    """One project; `settings` stand for those of params.yaml, as the probe does that varies them."""

    def __init__(self, home: Home, settings: Settings | None = None) -> None:
        self.home = home
        if settings is not None:
            self.settings = settings

    @staticmethod
    def open() -> Project:
        """The project of the working folder or $XADFLOW_PROJECT. Raises WrongUse outside any."""
        return Project(Home.find())

    @cached_property
    def settings(self) -> Settings:
        """params.yaml, read once. Raises BadSettings."""
        return load_settings(self.home.params)

    @cached_property
    def registry(self) -> Registry:
        """The models; one client a process."""
        return _registry(self.home.mlflow_uri, self.home.mlflow_artifacts)

    @cached_property
    def store(self) -> EvidenceStore:
        """The evidence, to be written: its heads go to MLflow and, if there is one, to the anchor file.

        Raises BadSettings when the signing key cannot be used.
        """
        return _store(self.home, self.home.mlflow_uri, self.settings.evidence)

    @property
    def records(self) -> EvidenceStore:
        """The evidence, to be read only: an auditor's copy has neither the models nor the signing key."""
        from xadflow.evidence.store import EvidenceStore

        return EvidenceStore(self.home.tables, self.home.ledger)

    @cached_property
    def device(self) -> torch.device:
        """What the arithmetic runs on. Raises BadSettings for a device that is not there."""
        from xadflow.training.devices import resolve_device

        return resolve_device(self.settings.device)


@cache
def _registry(uri: str, artifacts: Path) -> Registry:
    from xadflow.models.registry import Registry

    return Registry(uri, artifacts)


@cache
def _store(home: Home, mlflow_uri: str, evidence: EvidenceSettings) -> EvidenceStore:
    from xadflow.evidence.anchor_file import AnchorFile
    from xadflow.evidence.ledger import LedgerHead
    from xadflow.evidence.seals import Seals, account_secret
    from xadflow.evidence.signing import load_signing_key
    from xadflow.evidence.store import EvidenceStore

    registry = _registry(mlflow_uri, home.mlflow_artifacts)
    key = load_signing_key(home.project / evidence.signing_key) if evidence.signing_key else None
    file = AnchorFile(home.project / evidence.anchor_file, key) if evidence.anchor_file else None

    def anchor(head: LedgerHead) -> None:
        if file:
            file.append(head)
        registry.anchor_head(head.seq, head.digest)

    def anchored() -> list[LedgerHead | None]:
        found = registry.anchored_head()
        return [LedgerHead(**found) if found else None, *([file.head()] if file else [])]

    seals = Seals(key, account_secret(home.writer_secret, home.state))
    return EvidenceStore(home.tables, home.ledger, anchor=anchor, anchored=anchored, seals=seals)
