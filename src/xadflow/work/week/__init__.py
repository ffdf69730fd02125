"""The weekly work, without any orchestrator: train one detector, evaluate it, gate it, register it."""

from xadflow.work.week.evaluate import gate_figures
from xadflow.work.week.explainer_training import train_explainer
from xadflow.work.week.gate import GateOutcome, judge_challenger, judge_explainer, settle
from xadflow.work.week.judge import FittedJudge, fit_judge
from xadflow.work.week.order import ExplainerOrder, TrainingOrder, explainer_order, judge_order, training_order
from xadflow.work.week.pixel_figures import pixel_line
from xadflow.work.week.recalibration import Recalibrated, recalibrate
from xadflow.work.week.register import register_explainer, register_trained
from xadflow.work.week.train import earlier_stages, train_detector, train_stage

__all__ = [
    "ExplainerOrder",
    "FittedJudge",
    "GateOutcome",
    "Recalibrated",
    "TrainingOrder",
    "earlier_stages",
    "explainer_order",
    "fit_judge",
    "gate_figures",
    "judge_challenger",
    "judge_explainer",
    "judge_order",
    "pixel_line",
    "recalibrate",
    "register_explainer",
    "register_trained",
    "settle",
    "train_detector",
    "train_explainer",
    "train_stage",
    "training_order",
]
