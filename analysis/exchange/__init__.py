"""Other formats: W&B, and the result files of PEFT's method comparison."""
