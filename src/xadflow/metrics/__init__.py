"""Measures of detection and of explanations; raw scores in, no clamping on the way."""
