"""Held-out judges: a detector that had no part in an explanation says whether its counterfactuals are normal."""

from xadflow.models.judges.halves import Halves, donor_half
from xadflow.models.judges.panel import (
    Heard,
    Judge,
    JudgeRef,
    Panel,
    ask,
    find_judges,
    judges_lineage,
    open_judges,
    with_words,
)
from xadflow.models.judges.transfer import cases_of, transfer_figures

__all__ = [
    "Halves",
    "Heard",
    "Judge",
    "JudgeRef",
    "Panel",
    "ask",
    "cases_of",
    "donor_half",
    "find_judges",
    "judges_lineage",
    "open_judges",
    "transfer_figures",
    "with_words",
]
