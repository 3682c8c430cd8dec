"""Which method should I use: constraints, one's own effects, plans and tried capabilities → an answer with doubts."""
