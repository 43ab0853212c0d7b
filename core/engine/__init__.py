"""DeepSpeed, and nothing else that imports it."""
