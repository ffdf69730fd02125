"""Synthetic anomalies with exact masks."""
