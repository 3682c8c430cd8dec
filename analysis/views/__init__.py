"""Views: the answer, tables, figures and the page; they show what :mod:`analysis.effects` found."""
