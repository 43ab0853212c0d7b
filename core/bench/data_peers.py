"""How the peers read their training data, each used as its own documentation says."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch


class Megatron:
    """Megatron-core's GPTDataset, without attention masks and resets: its cheapest way.

    Args:
        prefix: of a token file.
        cache: folder for its index.
        sequence_length: of a sample.
        samples: that it is built for.
    """

    def __init__(self, prefix: Path, cache: Path, *, sequence_length: int, samples: int) -> None:
        from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

        cache.mkdir(exist_ok=True)
        tokenizer = SimpleNamespace(vocab_size=50257, eod=0, pad=50258, unique_identifiers={"class": "bench"})
        config = GPTDatasetConfig(
            random_seed=0, sequence_length=sequence_length, blend=([str(prefix)], None), split="100,0,0", path_to_cache=str(cache),
            tokenizer=tokenizer, reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
        )
        begin = time.perf_counter()
        self._dataset = BlendedMegatronDatasetBuilder(GPTDataset, [samples, None, None], lambda: True, config).build()[0]
        self.build_seconds = time.perf_counter() - begin
        self.index_bytes = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """As torch's DataLoader makes it."""
        return torch.utils.data.default_collate([self._dataset[index] for index in indices])


def nanogpt_batch(path: Path, size: int, sequence_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`get_batch` of nanoGPT's train.py, line by line; it opens the file anew for each batch."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    ix = torch.randint(len(data) - sequence_length, (size,))
    x = torch.stack([torch.from_numpy((data[i : i + sequence_length]).astype(np.int64)) for i in ix])
    y = torch.stack([torch.from_numpy((data[i + 1 : i + 1 + sequence_length]).astype(np.int64)) for i in ix])
    return x, y
