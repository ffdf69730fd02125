"""Where this checkout lies."""

from pathlib import Path

PROJECT = Path(__file__).parents[1]
