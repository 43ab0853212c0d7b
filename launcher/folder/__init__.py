"""Whose a run folder is."""
