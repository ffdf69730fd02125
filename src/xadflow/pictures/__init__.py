"""Plots and sheets of tiles."""
