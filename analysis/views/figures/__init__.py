"""The figures, one a file: ``python -m analysis.figures runs/ out=figures/`` draws all that runs have data for."""
