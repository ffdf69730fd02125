"""Rows of the evidence tables formed again from their lineage, and compared with the stored ones."""

from xadflow.evidence.replay.rows import ASSUMED, DIFFERS, IDENTICAL, IMPOSSIBLE, WITHIN, Replayed, replay

__all__ = ["ASSUMED", "DIFFERS", "IDENTICAL", "IMPOSSIBLE", "WITHIN", "Replayed", "replay"]
