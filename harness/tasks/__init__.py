"""Kinds of task, one file each; a data set is a preset of a kind in ``conf/task``."""
