"""What the benchmarks of counterfactuals share: trained models, baselines, judges, sheets."""
