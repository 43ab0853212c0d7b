"""From raw text to exact batches; numpy only, no torch."""
