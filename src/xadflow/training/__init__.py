"""What every training needs, detectors' and explainers' alike: device, seeds, checkpoints, history, progress."""
