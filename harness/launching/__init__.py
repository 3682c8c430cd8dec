"""How the runs of a sweep are started: side by side on this machine, or by SLURM on others."""
