"""What the flows do, without an orchestrator: night, week (retraining) and probe."""
