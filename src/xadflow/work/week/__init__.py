"""The weekly work, without any orchestrator: train one detector, evaluate it, gate it, register it."""

from xadflow.work.week.challenge import GateOutcome, judge_challenger, settle
from xadflow.work.week.evaluate import gate_figures
from xadflow.work.week.explainer_gate import judge_explainer
from xadflow.work.week.explainer_register import register_explainer
from xadflow.work.week.explainer_training import ExplainerOrder, explainer_order, train_explainer
from xadflow.work.week.judge import FittedJudge, fit_judge
from xadflow.work.week.register import register_trained
from xadflow.work.week.train import TrainingOrder, earlier_stages, train_detector, train_stage, training_order

__all__ = [
    "ExplainerOrder",
    "FittedJudge",
    "GateOutcome",
    "TrainingOrder",
    "earlier_stages",
    "explainer_order",
    "fit_judge",
    "gate_figures",
    "judge_challenger",
    "judge_explainer",
    "register_explainer",
    "register_trained",
    "settle",
    "train_detector",
    "train_explainer",
    "train_stage",
    "training_order",
]
