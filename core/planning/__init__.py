"""What a run will need, known before it starts. Pure: no GPU, no torch."""
