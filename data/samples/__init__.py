"""Training samples and batches out of token files."""
