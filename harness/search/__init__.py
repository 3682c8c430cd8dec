"""A learning rate of its own for each configuration of a sweep."""
