"""Parts of `python -m benchmarks.transplant`."""
