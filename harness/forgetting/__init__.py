"""What a run forgot: probes of language-model loss, divergence from the base, and earlier abilities."""
