"""What a run lost: probes of language-model loss, divergence from the base, and earlier abilities."""
