"""The weekly work, without any orchestrator: train one detector, evaluate it, gate it, register it."""

from xadflow.retraining.challenge import GateOutcome, judge_challenger
from xadflow.retraining.evaluate import gate_figures
from xadflow.retraining.register import register_trained
from xadflow.retraining.train import TrainingOrder, train_detector, training_order

__all__ = [
    "GateOutcome",
    "TrainingOrder",
    "gate_figures",
    "judge_challenger",
    "register_trained",
    "train_detector",
    "training_order",
]
