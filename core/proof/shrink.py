"""A config scaled down to what a few processes run in seconds, with its structure kept. Pure.

Kept: axes, schedule, precision, kinds of attention, norm, activation and positions, experts, tying, biases, where there is dropout,
accumulation, ZeRO stage, offload, recomputation, the optimizer and its schedule. Smaller: every size, and an axis that needs too many
processes.
"""

from copy import deepcopy
from dataclasses import fields
from math import ceil, gcd, prod

from ...conf.cluster_schema import ClusterKind
from ...conf.schema import Config, ContextAttention, ModelConfig, ParallelConfig, RampUpConfig
from ...parallel.stages import micro_batch_fault, stages_per_rank
from ...parallel.topology import divisors
from ..layouts import context_unit

HIDDEN, HEADS, LENGTH, VOCABULARY, EXPERTS = 32, 4, 32, 128, 4
HEAD_SIZES = (8, 4, 2)  # even, for rotary positions


def training_config(config: Config) -> Config:
    """The training run that a command's config describes, on this machine."""
    plain = deepcopy(Config(**{entry.name: getattr(config, entry.name) for entry in fields(Config)}))
    plain.cluster.kind, plain.cluster.nodes = ClusterKind.local, 1
    plain.run.restarts, plain.checkpoint.asynchronous = 0, False
    return plain


def shrink(config: Config, *, processes: int, steps: int) -> tuple[Config, int]:
    """The scaled-down config of the full layout, and its number of processes.

    Args:
        config: of a training run that can run.
        processes: the most that the full layout may take.
        steps: optimizer steps.
    """
    small = deepcopy(config)
    dp = _fit(small.parallel, processes)
    _shrink_model(small.model, config)
    _shrink_layers(small.model, small.parallel, config)
    _shrink_batch(small, config, dp)
    small.train.steps, small.train.stop_at, small.train.initialize_from = steps, 0, ""
    small.schedule.warmup_steps = min(small.schedule.warmup_steps, steps // 4)
    small.schedule.decay_steps = min(small.schedule.decay_steps, max(1, steps // 4))
    world = small.parallel.tp * small.parallel.pp * small.parallel.cp * dp
    small.cluster.ranks_per_node = world
    return small, world


def least_processes(p: ParallelConfig) -> int:
    """The fewest ranks on which the degrees can be laid out: dp x cp must be a multiple of ep."""
    return p.tp * p.pp * p.cp * (p.ep // gcd(p.ep, p.cp))


def _fit(p: ParallelConfig, processes: int) -> int:
    """Lowers degrees until the layout fits, the largest first, and returns the data-parallel degree: 2 where there is room."""
    while True:
        inside = p.tp * p.pp * p.cp
        least = p.ep // gcd(p.ep, p.cp)  # dp x cp must be a multiple of ep
        dp = max(2, least) if 2 % least == 0 or least > 2 else least
        for choice in (dp, least):
            if inside * choice <= processes:
                return choice
        axis = max(("tp", "pp", "cp", "ep"), key=lambda name: getattr(p, name))
        setattr(p, axis, max(d for d in divisors(getattr(p, axis)) if d < getattr(p, axis)))


def _shrink_model(m: ModelConfig, whole: Config) -> None:
    """Sizes; what the degrees of the whole config divide stays divisible, and what they do not divide stays so."""
    p, old = whole.parallel, whole.model
    ulysses = p.cp if p.context_attention is ContextAttention.ulysses else 1
    m.num_kv_heads = _fewer_heads(old, p.tp, ulysses)
    m.num_heads = old.num_heads // old.num_kv_heads * m.num_kv_heads
    head_size = next((size for size in HEAD_SIZES if size * m.num_heads <= max(HIDDEN, 2 * m.num_heads)), 2)
    m.hidden_size = head_size * m.num_heads
    m.ffn_hidden_size = _scaled(old.ffn_hidden_size, old.hidden_size, m.hidden_size, p.tp)
    if old.expert_ffn_hidden_size:
        m.expert_ffn_hidden_size = _scaled(old.expert_ffn_hidden_size, old.hidden_size, m.hidden_size, p.tp)
    divided = old.vocab_size % p.tp == 0
    least = min(old.vocab_size, VOCABULARY)
    m.vocab_size = next(size for size in range(least, least + p.tp + 1) if (size % p.tp == 0) == divided)
    unit = context_unit(p) * (p.tp if p.sequence_parallel else 1)
    m.sequence_length = unit * ceil(min(LENGTH, old.sequence_length) / unit)
    m.rope_original_sequence_length = max(1, m.sequence_length * old.rope_original_sequence_length // old.sequence_length)
    if old.num_experts:
        wanted = max(EXPERTS, old.experts_per_token + 1)
        m.num_experts = min((d for d in divisors(old.num_experts) if d >= wanted and d % p.ep == 0), default=old.num_experts)


def _fewer_heads(old: ModelConfig, tp: int, ulysses: int) -> int:
    """The fewest key-value heads that relate to the axes, and to the query heads, as those of the whole model do."""
    def relation(kv: int) -> tuple[bool, ...]:
        heads = old.num_heads // old.num_kv_heads * kv
        return kv % tp == 0, tp % kv == 0 and kv < tp, heads % tp == 0, heads % (tp * ulysses) == 0, kv % (tp * ulysses) == 0

    group = old.num_heads // old.num_kv_heads
    good = [kv for kv in divisors(old.num_kv_heads) if relation(kv) == relation(old.num_kv_heads)]
    return next((kv for kv in good if kv * group >= HEADS and (kv > 1 or old.num_kv_heads == 1)), good[-1])


def _scaled(width: int, old_hidden: int, hidden: int, tp: int) -> int:
    """The same ratio to the hidden size, divisible by tp if it was."""
    size = max(1, round(width * hidden / old_hidden))
    return size if width % tp else max(1, round(size / tp)) * tp


def _shrink_layers(m: ModelConfig, p: ParallelConfig, whole: Config) -> None:
    """As many blocks as there are stages, uneven if they were; at least one of each kind."""
    old, before = whole.model, whole.parallel
    stages = p.pp * stages_per_rank(p.schedule.value, p.virtual_stages) if p.pp > 1 else 1
    if p.stage_layers and p.pp == before.pp:
        p.stage_layers = [1 + (count > min(p.stage_layers)) for count in p.stage_layers]
        m.num_layers = sum(p.stage_layers)
        return
    p.stage_layers = []
    old_stages = before.pp * stages_per_rank(before.schedule.value, before.virtual_stages) if before.pp > 1 else 1
    uneven = old.num_layers % old_stages != 0
    m.dense_layers, m.expert_interval = min(old.dense_layers, 1), min(old.expert_interval, 2)
    kinds = m.dense_layers + m.expert_interval if old.num_experts else 1
    m.num_layers = min(old.num_layers, max(2, kinds, stages + (stages - 1 if uneven and stages > 1 else 0)))


def _shrink_batch(small: Config, whole: Config, dp: int) -> None:
    """Micro-batches of one or two samples, as many as the schedule takes, and two where there was accumulation."""
    b, p = small.batch, small.parallel
    old_world = whole.cluster.nodes * whole.cluster.ranks_per_node
    old_dp = max(1, old_world // prod((whole.parallel.tp, whole.parallel.pp, whole.parallel.cp)))
    accumulation = max(1, whole.batch.global_size // (whole.batch.micro_size * old_dp))
    b.micro_size = min(2, whole.batch.micro_size)
    count = min(2, accumulation)
    if p.pp > 1:
        count = next(n for n in range(min(accumulation, 2 * p.pp), 8 * p.pp)
                     if micro_batch_fault(p.schedule.value, pp=p.pp, virtual_stages=p.virtual_stages, micro_batches=n) is None)
    b.global_size = b.micro_size * count * dp
    b.ramp_up, small.data.stages = RampUpConfig(), []  # a proof takes a few steps, all alike
