"""The team's models: MLflow's registry, the gate, what is in service, judges and donors."""
