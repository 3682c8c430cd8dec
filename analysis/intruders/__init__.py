"""Intruder dimensions: three algorithms that agree, null controls, tables (arXiv 2410.21228)."""
