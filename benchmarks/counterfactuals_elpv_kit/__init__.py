"""The parts of `python -m benchmarks.counterfactuals_elpv`."""
