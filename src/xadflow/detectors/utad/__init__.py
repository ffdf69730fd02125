"""UTAD: an anomaly-free impression of an image, and an expert that adds global detail to it (detector.py)."""
