"""Composes model, engine, loop and checkpoints."""
