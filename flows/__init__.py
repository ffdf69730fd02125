"""Flows: what happens in which order, and when."""
