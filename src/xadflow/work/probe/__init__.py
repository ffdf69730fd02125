"""The spurious-feature probe: plant a watermark, train, and measure how much of the detector hangs on it."""

from xadflow.work.probe.planting import SIDES, Side
from xadflow.work.probe.run import ProbePlan, run_probe
from xadflow.work.probe.watermark import Watermark

__all__ = ["SIDES", "ProbePlan", "Side", "Watermark", "run_probe"]
