"""What lies on disk: model folders, checkpoints of runs."""
