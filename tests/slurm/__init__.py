"""Slurm: a real one, on hosts of this machine."""
