"""One thread for torch: a fork of a process whose OpenMP pool has started hangs in its first large tensor operation."""

import torch

torch.set_num_threads(1)
