"""Fine-tuning methods, one file each; registering one makes it a choice of ``method=``."""
