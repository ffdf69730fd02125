"""The parts of the registry behind `registry.py` that need no MLflow: names, runs, the store's creation, the anchor."""
