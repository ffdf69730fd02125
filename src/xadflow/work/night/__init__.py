"""The nightly work, without any orchestrator: plan it, do one shard of it, finish it with a report."""

from xadflow.work.night.plan import NightOrder, NightPlan, PlannedImage, plan_night, read_plan
from xadflow.work.night.work import ShardFigures, explain_shard

__all__ = ["NightOrder", "NightPlan", "PlannedImage", "ShardFigures", "explain_shard", "plan_night", "read_plan"]
