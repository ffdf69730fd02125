"""Servers of a machine: Prefect, its worker and MLflow, and what a killed one left behind."""
