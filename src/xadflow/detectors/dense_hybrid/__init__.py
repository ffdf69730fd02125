"""DenseHybrid: scenes, a class for each pixel, and what belongs to none of them (detector.py)."""
