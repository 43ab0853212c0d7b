"""Fine-tuning data: conversations with a loss mask in packed rows, classes, preference pairs."""
