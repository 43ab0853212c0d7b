"""W&B and TensorBoard, fed by a process of their own."""
