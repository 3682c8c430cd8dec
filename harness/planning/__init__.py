"""What a training step takes of a GPU's memory, found without a GPU, without weights and without data."""
