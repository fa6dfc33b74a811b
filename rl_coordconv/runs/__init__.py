"""One training run: its config, folder, checkpoints, callbacks and evaluation."""
