"""One training: the Trainer with this project's loss, order of items and checkpoints."""
