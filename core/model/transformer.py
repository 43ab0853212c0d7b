"""One decoder-only transformer for every family: which one it is, is a table of ModelConfig values (conf/model/).

Shapes: B micro-batch, S sequence, K keys, H hidden, V vocabulary, v this rank's columns of it.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.embedding import VocabParallelHead
from ...parallel.recompute import recompute
from .block import Block
from .cache import KeyValueCache
from .embedding import Embedding
from .input import ModelInput, Shared
from .norms import build_norm
from .rope import rope_frequencies, rotation


class Transformer(nn.Module):
    """embedding -> blocks -> final_norm -> head. Parameters are held in fp32; `build_model` fills them.

    Args:
        config: sizes and switches.
        group: the tensor axis.
        seed: of dropout.
        recompute: train.recompute: which activations each block recomputes.

    Raises:
        ValueError: sizes that do not fit each other or the group.
    """

    def __init__(self, config: ModelConfig, group: dist.ProcessGroup, *, seed: int = 0, recompute: str = "none") -> None:
        super().__init__()
        self.config, self.group, self.recompute = config, group, str(recompute)
        self.embedding = Embedding(config, group=group, seed=seed)
        self.blocks = nn.ModuleList(Block(config, layer=i, group=group, seed=seed) for i in range(config.num_layers))
        self.final_norm = build_norm(config)
        tied_to = self.embedding.tokens if config.tie_embeddings else None
        self.head = VocabParallelHead(config.vocab_size, config.hidden_size, group=group, tied_to=tied_to)
        self.frequencies: Tensor | None
        frequencies = rope_frequencies(config) if config.positions == Positions.rope else None
        if frequencies is not None:
            frequencies = frequencies.to(torch.get_default_device())
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, batch: ModelInput, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the next token.

        Args:
            batch: the micro-batch; with a cache, its tokens follow those already in it.
            cache: keys and values of earlier tokens; the new ones are added.

        Returns:
            logits_BSv: this rank's columns; padding columns past the vocabulary mean nothing.
        """
        shared = self.shared(batch, cache)
        x_BSH = self.embedding(batch.tokens_BS, batch.positions_BS, shared)
        for block in self.blocks:
            x_BSH = recompute(block, self.recompute, x_BSH, shared)
        logits_BSv = self.head(self.final_norm(x_BSH))
        if cache is not None:
            cache.advance(batch.tokens_BS.shape[1])
        return logits_BSv

    def shared(self, batch: ModelInput, cache: KeyValueCache | None = None) -> Shared:
        """What the blocks share: rotary angles, mask, coordinates of dropout."""
        first = 0 if cache is None else cache.length
        S = batch.tokens_BS.shape[1]
        if first + S > self.config.sequence_length:
            raise ValueError(f"{first + S} tokens exceed model.sequence_length={self.config.sequence_length}")
        angles = None if self.frequencies is None else rotation(batch.positions_BS, self.frequencies)
        positions_S = torch.arange(first, first + S, device=batch.tokens_BS.device)
        return Shared(angles, _attention_mask(batch, cache), batch.samples_B, batch.step, positions_S, cache)


def _attention_mask(batch: ModelInput, cache: KeyValueCache | None) -> Tensor | None:
    """Bool [B, S, K]: which keys each query sees; None where plain causal attention says it all."""
    B, S = batch.tokens_BS.shape
    first = 0 if cache is None else cache.length
    if batch.documents_BS is None and (first == 0 or S == 1):
        return None
    device = batch.tokens_BS.device
    seen_SK = torch.ones(S, first + S, dtype=torch.bool, device=device).tril(first)
    if batch.documents_BS is None:
        return seen_SK.expand(B, S, first + S)
    keys_BK = batch.documents_BS if cache is None else cache.append_documents(batch.documents_BS)
    return seen_SK & (batch.documents_BS[:, :, None] == keys_BK[:, None, :])
