"""Checkpoints that know no layout."""
