"""What `python -m benchmarks.counterfactuals` is made of: its images, its readers, its baselines, its pages."""
