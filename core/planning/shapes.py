"""The sizes in which activations are counted. Pure: imports no torch."""

from dataclasses import dataclass
from math import lcm

from ...conf.schema import Activation, Config, ContextAttention, Positions, Precision, Recompute
from ..expert_rules import shared_width

FP32 = 4
INT64 = 8


@dataclass(frozen=True)
class Shapes:
    """One rank's sizes. T tokens here (B * S), W of the whole window, N and G query and kv heads of a tensor rank, D head dim.

    Args:
        config: of the run.
        on_cpu: kernels of torch's CPU backend, which keep more: RMSNorm its normalised input, attention under RoPE its result twice.
    """

    config: Config
    on_cpu: bool = False

    @property
    def B(self) -> int:
        """Samples of a micro-batch."""
        return self.config.batch.micro_size

    @property
    def W(self) -> int:
        """Tokens of a window."""
        return self.config.model.sequence_length

    @property
    def S(self) -> int:
        """Tokens of a window on this rank of the context axis."""
        return self.W // self.config.parallel.cp

    @property
    def T(self) -> int:
        """Tokens of a micro-batch here."""
        return self.B * self.S

    @property
    def sequence_parallel(self) -> bool:
        """Whether the residual stream is cut over the tensor axis."""
        return self.config.parallel.sequence_parallel and self.config.parallel.tp > 1

    @property
    def residual(self) -> int:
        """Elements of the residual stream here."""
        return self.T * self.H // (self.config.parallel.tp if self.sequence_parallel else 1)

    @property
    def H(self) -> int:
        """Width of the residual stream."""
        return self.config.model.hidden_size

    @property
    def D(self) -> int:
        """Width of a head."""
        return self.H // self.config.model.num_heads

    @property
    def N(self) -> int:
        """Query heads."""
        return self.config.model.num_heads // self.config.parallel.tp

    @property
    def G(self) -> int:
        """Key and value heads."""
        return max(1, self.config.model.num_kv_heads // self.config.parallel.tp)

    @property
    def q(self) -> int:
        """Elements of the queries, and of what attention gives."""
        return self.T * self.N * self.D

    @property
    def kv(self) -> int:
        """Elements of the keys."""
        return self.T * self.G * self.D

    @property
    def product(self) -> int:
        """Bytes of one element of what a matrix product takes and gives."""
        return FP32 if self.config.train.precision is Precision.fp32 else 2

    @property
    def casts(self) -> bool:
        """Whether weights are cast at each use, and the copies kept for the backward pass (core/model/precision.py)."""
        return self.config.train.precision is Precision.bf16

    @property
    def rope(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.config.model.positions is Positions.rope

    @property
    def masked(self) -> bool:
        """Whether attention is told the documents."""
        return self.config.data.document_mask

    @property
    def explicit(self) -> bool:
        """Whether attention weights lie in the open, for dropout on them."""
        return self.config.model.attention_dropout > 0

    @property
    def rings(self) -> bool:
        """Whether keys and values go round the context axis."""
        return self.config.parallel.cp > 1 and self.config.parallel.context_attention is ContextAttention.ring

    @property
    def exchanges(self) -> bool:
        """Whether heads are exchanged for tokens over the context axis."""
        return self.config.parallel.cp > 1 and not self.rings

    @property
    def exchanged(self) -> int:
        """Elements of queries, keys and values after that exchange: kv heads are repeated where they do not divide."""
        cp = self.config.parallel.cp
        return self.B * self.W * self.D * (self.N // cp + 2 * lcm(self.G, cp) // cp)

    @property
    def repeats_kv(self) -> bool:
        """Whether a mask makes each kv head lie once for every query head that uses it."""
        groups = lcm(self.G, self.config.parallel.cp) if self.exchanges else self.G
        return groups < self.N

    @property
    def recompute(self) -> Recompute:
        """train.recompute."""
        return self.config.train.recompute

    @property
    def up_parts(self) -> int:
        """Times its width that `up` of an MLP gives."""
        return 2 if self.config.model.activation is Activation.swiglu else 1

    @property
    def shared_width(self) -> int:
        """Width of the MLP beside the experts."""
        return shared_width(self.config.model)
