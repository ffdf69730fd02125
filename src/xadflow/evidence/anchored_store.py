"""The evidence store of a project, with every anchor that its settings name."""

from __future__ import annotations

from xadflow.evidence.anchor_file import AnchorFile
from xadflow.evidence.ledger import LedgerHead
from xadflow.evidence.signing import load_signing_key
from xadflow.evidence.store import EvidenceStore
from xadflow.models.registry import Registry
from xadflow.settings import EvidenceSettings, Home


def open_anchored_store(home: Home, registry: Registry, evidence: EvidenceSettings) -> EvidenceStore:
    """The store whose heads go to the anchor file, if there is one, and to MLflow.

    Raises:
        BadSettings: the signing key cannot be used.
    """
    key = load_signing_key(home.project / evidence.signing_key) if evidence.signing_key else None
    file = AnchorFile(home.project / evidence.anchor_file, key) if evidence.anchor_file else None

    def anchor(head: LedgerHead) -> None:
        if file:
            file.append(head)
        registry.anchor_head(head.seq, head.digest)

    def anchored() -> list[LedgerHead | None]:
        found = registry.anchored_head()
        return [LedgerHead(**found) if found else None, *([file.head()] if file else [])]

    return EvidenceStore(home.tables, home.ledger, anchor=anchor, anchored=anchored)
