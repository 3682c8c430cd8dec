"""Intruder dimensions: counts with bounds, null controls, tables (arXiv 2410.21228)."""
