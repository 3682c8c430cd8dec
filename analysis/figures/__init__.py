"""The figures, one a file: ``python -m analysis.figures runs/ --out figures/`` draws all that the runs have data for."""
