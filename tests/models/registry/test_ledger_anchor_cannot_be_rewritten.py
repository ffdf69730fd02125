from __future__ import annotations

import pytest
from tiny_store import Store

from xadflow.errors import AuditFailed
from xadflow.models.registry import Registry


def test_the_highest_head_is_remembered_by_a_new_process_and_never_changed(store: Store) -> None:
    assert store.registry.anchored_head() is None
    for seq in (1, 999, 1003, 1002):  # two blocks, and a late writer
        store.registry.anchor_head(seq, f"digest-{seq}")
    store.registry.anchor_head(1003, "digest-1003")  # the same again changes nothing
    reopened = Registry(store.registry.uri, store.registry.artifacts)
    assert reopened.anchored_head() == {"seq": 1003, "digest": "digest-1003"}
    with pytest.raises(AuditFailed, match="line 999"):
        reopened.anchor_head(999, "another")
    assert reopened.anchored_head() == {"seq": 1003, "digest": "digest-1003"}
