"""FCDD on frozen features (arXiv 2007.01760): a map of distances, averaged to a score."""
