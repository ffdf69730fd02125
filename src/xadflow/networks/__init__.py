"""Networks: pretrained trunks from packages, cut at a stage, and those of the papers, with their receptive fields."""
