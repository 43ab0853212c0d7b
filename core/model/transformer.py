"""One decoder-only transformer for every family: which one it is, is a table of ModelConfig values (conf/model/).

Shapes: B micro-batch, S sequence, s this rank's shard of it under sequence parallelism, K keys, H hidden, V vocabulary, v this rank's
columns of it.
"""

import torch
from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.collectives import residual_slice
from ...parallel.context import LayerGroups
from ...parallel.embedding import VocabParallelHead
from ...parallel.recompute import recompute
from ...parallel.stages import Stage
from ...parallel.window import gather_window
from .block import Block
from .cache import KeyValueCache
from .embedding import Embedding
from .input import ModelInput, Shared
from .norms import build_norm
from .rope import rope_frequencies, rotation


class Transformer(nn.Module):
    """embedding -> blocks -> final_norm -> head, or the slice of it that one pipeline stage holds. `build_model` fills the parameters.

    Args:
        config: sizes and switches.
        groups: the axes.
        seed: of dropout.
        recompute: train.recompute: which activations each block recomputes.
        stage: the slice; None: the whole model.

    Raises:
        ValueError: sizes that do not fit each other or the groups.
    """

    def __init__(self, config: ModelConfig, groups: LayerGroups, *, seed: int = 0, recompute: str = "none",
                 stage: Stage | None = None) -> None:
        super().__init__()
        self.config, self.groups, self.recompute = config, groups, str(recompute)
        self.stage = stage = stage or Stage.whole(config.num_layers)
        self.embedding = Embedding(config, groups=groups, seed=seed) if stage.first else None
        self.blocks = nn.ModuleDict({str(i): Block(config, layer=i, groups=groups, seed=seed) for i in stage.layers})
        self.final_norm = build_norm(config, groups=groups) if stage.last else None
        self.head = self._build_head() if stage.last else None
        self.frequencies: Tensor | None
        frequencies = rope_frequencies(config) if config.positions == Positions.rope else None
        if frequencies is not None:
            frequencies = frequencies.to(torch.get_default_device())
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _build_head(self) -> VocabParallelHead:
        config, tied = self.config, self.config.tie_embeddings
        tied_to = self.embedding.tokens if tied and self.embedding is not None else None
        head = VocabParallelHead(config.vocab_size, config.hidden_size, group=self.groups.tensor, tied_to=tied_to,
                                 sequence_parallel=self.groups.sequence_parallel, overlap=self.groups.overlap)
        if tied and tied_to is None:  # the embedding lies on the first stage: this is a copy of its weight
            head.aliases, head.copies = {"weight": "/embedding.tokens.weight"}, {"weight"}
        return head

    def forward(self, batch: ModelInput, cache: KeyValueCache | None = None, hidden_BsH: Tensor | None = None) -> Tensor:
        """Logits of the next token; of a stage that is not the last, its hidden states.

        Args:
            batch: the micro-batch; with a cache, its tokens follow those already in it.
            cache: keys and values of earlier tokens; the new ones are added.
            hidden_BsH: what the stage before gave; None for the first stage.

        Returns:
            logits_BSv: this rank's columns (padding columns past the vocabulary mean nothing); or hidden_BsH.
        """
        shared = self.shared(batch, cache)
        if self.embedding is not None:
            hidden_BsH = self.embedding(batch.tokens_BS, batch.positions_BS, shared)
        assert hidden_BsH is not None, "a later stage needs the hidden states of the stage before"
        for block in self.blocks.values():
            hidden_BsH = recompute(block, self.recompute, hidden_BsH, shared)
        if cache is not None:
            cache.advance(batch.tokens_BS.shape[1])
        if self.final_norm is None or self.head is None:
            return hidden_BsH
        return self.head(self.final_norm(hidden_BsH))

    def shared(self, batch: ModelInput, cache: KeyValueCache | None = None) -> Shared:
        """What the blocks share: rotary angles, mask, coordinates of dropout."""
        context, S = self.groups.context, batch.tokens_BS.shape[1]
        first = 0 if cache is None else cache.length
        if first + S * context.size() > self.config.sequence_length:
            raise ValueError(f"{first + S * context.size()} tokens exceed model.sequence_length={self.config.sequence_length}")
        assert batch.places_S is not None or context.size() == 1, "cut_to_context cuts the window and says which places lie here"
        angles = None if self.frequencies is None else rotation(batch.positions_BS, self.frequencies)
        places_S = torch.arange(first, first + S, device=batch.tokens_BS.device) if batch.places_S is None else batch.places_S
        residual_S = residual_slice(places_S, self.groups.tensor, sequence_parallel=self.groups.sequence_parallel, dim=0)
        documents_BK = batch.documents_BS
        if documents_BK is not None:  # once for all blocks: numbers, small beside keys and values
            documents_BK = gather_window(documents_BK, context, kind=self.groups.context_attention)
        mask_BSK = self._ring_mask(batch, documents_BK) if self.groups.rings else \
            _attention_mask(documents_BK, S * context.size(), cache, device=places_S.device)
        return Shared(angles, mask_BSK, batch.samples_B, batch.step, places_S, residual_S, documents_BK, cache)

    def _ring_mask(self, batch: ModelInput, documents_BK: Tensor | None) -> Tensor | None:
        """Only dropout on attention weights needs a mask: the ring's own attention goes by places and documents."""
        if not self.training or self.config.attention_dropout == 0 or batch.places_S is None:
            return None
        K = batch.places_S.shape[0] * self.groups.context.size()
        seen_BSK = (batch.places_S[:, None] >= torch.arange(K, device=batch.places_S.device))[None]
        if documents_BK is None or batch.documents_BS is None:
            return seen_BSK
        return seen_BSK & (batch.documents_BS[:, :, None] == documents_BK[:, None, :])


def _attention_mask(documents_BS: Tensor | None, S: int, cache: KeyValueCache | None, *, device: torch.device) -> Tensor | None:
    """Bool [B or 1, S, K]: which keys each of S queries sees; None where plain causal attention says it all."""
    first = 0 if cache is None else cache.length
    if documents_BS is None and (first == 0 or S == 1):
        return None
    seen_SK = torch.ones(S, first + S, dtype=torch.bool, device=device).tril(first)
    if documents_BS is None:
        return seen_SK[None]
    keys_BK = documents_BS if cache is None else cache.append_documents(documents_BS)
    return seen_SK & (documents_BS[:, :, None] == keys_BK[:, None, :])
