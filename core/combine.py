"""What may be combined with what: the rules that join sections of the config. Pure; found before any rank starts."""

from collections.abc import Iterator
from typing import Any

from ..conf.cluster_schema import ClusterKind
from ..conf.errors import Problem
from ..conf.schema import Config, OptimizerName, Positions, Precision, ScheduleName
from ..parallel.topology import divisors
from .batch import nearest_multiples
from .cluster_rules import cluster_rules
from .data_rules import objective_rules, ramp_up_rules, stage_rules
from .expert_rules import expert_rules
from .layouts import data_degree, layout_problems
from .ssh_rules import ssh_rules

# DeepSpeed settings that follow from a key of ours; ours would be a lie if they could be overridden.
DEEPSPEED_FOLLOWS = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size and batch.micro_size",
    "gradient_clipping": "train.gradient_clipping",
    "communication_data_type": "train.reduce_precision",
    "data_types": "train.precision and train.reduce_precision",
    "prescale_gradients": "train.reduce_precision",
    "gradient_predivide_factor": "train.reduce_precision",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "amp": "train.precision",
    "torch_autocast": "train.precision",
    "optimizer": "optimizer.name",
    "scheduler": "schedule.name",
    "activation_checkpointing": "train.recompute",
    "compile": "train.compile",
    "tensor_parallel": "parallel.tp",
    "pipeline": "parallel.pp",
    "elasticity": "batch.global_size",
    "checkpoint": "checkpoint.interval",
    "tensorboard": "tracking.tensorboard",
    "wandb": "tracking.wandb",
    "zero_optimization.stage": "parallel.zero",
    "zero_optimization.offload_optimizer": "parallel.offload",
    "zero_optimization.offload_param": "parallel.offload",
    "zero_optimization.cpu_offload": "parallel.offload",
}


def problems(config: Config, *, world_size: int, fp16: bool = True) -> list[Problem]:
    """Everything that cannot be combined, at once.

    Args:
        config: composed; each key by itself is already within its rule.
        world_size: ranks that will run it.
        fp16: the ranks' devices compute in fp16. A login node does not know and leaves it True.
    """
    rules = (run_rules(config), layout_problems(config, world_size), batch_rules(config, world_size), model_rules(config),
             expert_rules(config), precision_rules(config, fp16), course_rules(config), stage_rules(config), objective_rules(config),
             optimizer_rules(config), deepspeed_rules(config))
    return [problem for rule in rules for problem in rule]


def run_rules(config: Config) -> Iterator[Problem]:
    """The name must be one folder, and what a later release brings is refused by name."""
    name = config.run.name
    if not name or name in (".", "..") or any(c in name for c in "/\\\0\n") or name != name.strip():
        yield Problem("run.name", name, "must be one plain folder name", "choose letters, digits, - and _")
    if not config.run.directory.strip():
        yield Problem("run.directory", config.run.directory, "is empty", "leave it out for runs/<run.name>")
    yield from cluster_rules(config)
    if config.cluster.kind is ClusterKind.ssh:
        yield from ssh_rules(config.cluster)


def batch_rules(config: Config, world_size: int) -> Iterator[Problem]:
    """global_size = micro_size x accumulation steps x dp, exactly."""
    dp, b = data_degree(config, world_size), config.batch
    unit = b.micro_size * dp
    if unit and b.global_size % unit:
        near = " or ".join(map(str, nearest_multiples(b.global_size, unit)))
        micro_sizes = divisors(b.global_size // dp) if b.global_size % dp == 0 else []
        yield Problem("batch.global_size", b.global_size, f"is not batch.micro_size={b.micro_size} x accumulation steps x dp={dp} "
                      f"(dp: what tp x pp x cp = {world_size // dp} leaves of {world_size} ranks)",
                      f"try batch.global_size={near}" + (f", or batch.micro_size in {micro_sizes}" if micro_sizes else ""))
    yield from ramp_up_rules(config, unit)


def model_rules(config: Config) -> Iterator[Problem]:
    """Heads and sizes must fit into one another."""
    m = config.model
    if m.hidden_size % m.num_heads:
        yield Problem("model.num_heads", m.num_heads, f"does not divide model.hidden_size={m.hidden_size}",
                      f"try model.num_heads in {nearby(divisors(m.hidden_size), m.num_heads)}")
    elif m.positions is Positions.rope and m.hidden_size // m.num_heads % 2:
        even = [heads for heads in divisors(m.hidden_size) if m.hidden_size // heads % 2 == 0]
        yield Problem("model.num_heads", m.num_heads, f"gives heads of {m.hidden_size // m.num_heads}, and rotary positions need an even "
                      "size", f"try model.num_heads in {nearby(even, m.num_heads)}" if even else "make model.hidden_size even")
    if m.num_heads % m.num_kv_heads:
        yield Problem("model.num_kv_heads", m.num_kv_heads, f"does not divide model.num_heads={m.num_heads}",
                      f"try model.num_kv_heads in {divisors(m.num_heads)}")
    if m.rope_high_frequency_factor <= m.rope_low_frequency_factor:
        yield Problem("model.rope_high_frequency_factor", m.rope_high_frequency_factor,
                      f"must be above model.rope_low_frequency_factor={m.rope_low_frequency_factor}", "Llama 3 has 4 and 1")


def precision_rules(config: Config, fp16: bool) -> Iterator[Problem]:
    """What fp16 and compilation need. bf16 is autocast over fp32 parameters (core/engine/settings.py), so every stage takes it."""
    t = config.train
    if t.compile and config.parallel.zero == 3:
        yield Problem("train.compile", True, "does not work with parallel.zero=3: DeepSpeed's parameter hooks break the compiled graph",
                      "set parallel.zero=2, or train.compile=false")
    if t.precision is Precision.fp16 and not fp16:
        yield Problem("train.precision", t.precision, "needs a GPU or a processor with avx512_fp16, and this machine has neither",
                      "set train.precision=bf16 or fp32")
    if t.precision is Precision.fp16 and config.parallel.zero == 0:
        yield Problem("train.precision", t.precision, "needs a ZeRO stage of 1 or more, which keeps fp32 masters and the loss scale",
                      "set parallel.zero=1, or train.precision=bf16")


def course_rules(config: Config) -> Iterator[Problem]:
    """Warm-up, decay and the stop must lie inside the run."""
    t, s = config.train, config.schedule
    if t.stop_at > t.steps:
        yield Problem("train.stop_at", t.stop_at, f"is beyond train.steps={t.steps}", f"set train.stop_at to at most {t.steps}, or 0")
    if s.warmup_steps > t.steps:
        yield Problem("schedule.warmup_steps", s.warmup_steps, f"is more than train.steps={t.steps}",
                      f"try schedule.warmup_steps={t.steps // 20}")
    elif s.name is ScheduleName.wsd and s.warmup_steps + s.decay_steps > t.steps:
        yield Problem("schedule.decay_steps", s.decay_steps, f"and schedule.warmup_steps={s.warmup_steps} are more than "
                      f"train.steps={t.steps}", f"try schedule.decay_steps={(t.steps - s.warmup_steps) // 2}")
    if s.name is ScheduleName.wsd and s.decay_steps == 0:
        yield Problem("schedule.decay_steps", 0, "leaves wsd without its decay", f"try schedule.decay_steps={max(1, t.steps // 5)}, "
                      "or schedule=constant")
    elif s.name is not ScheduleName.wsd and s.decay_steps:
        yield Problem("schedule.decay_steps", s.decay_steps, f"is for wsd, and schedule.name={s.name.value}", "set schedule.decay_steps=0")


def optimizer_rules(config: Config) -> Iterator[Problem]:
    """Two moments' decay rates, each below 1; and what an optimizer needs to see whole."""
    o = config.optimizer
    if o.name is OptimizerName.muon and config.parallel.tp > 1:
        yield Problem("optimizer.name", o.name, f"orthogonalises whole matrices, and parallel.tp={config.parallel.tp} cuts them",
                      "set parallel.tp=1, or take optimizer=adamw")
    if o.name is OptimizerName.muon and config.parallel.zero > 0:
        # Measured with DeepSpeed 0.19.8: a norm of 30 where the gradient's is 1.8, so gradient_clipping would mean something else.
        yield Problem("optimizer.name", o.name, f"cannot run under parallel.zero={config.parallel.zero}: DeepSpeed clips and reports the "
                      "orthogonalised update there instead of the gradient", "set parallel.zero=0, or take optimizer=adamw")
    if o.name is not OptimizerName.sgd and (len(o.betas) != 2 or not all(0 <= beta < 1 for beta in o.betas)):
        yield Problem("optimizer.betas", o.betas, "must be two numbers, each at least 0 and below 1", "AdamW usually has [0.9, 0.95]")


def deepspeed_rules(config: Config) -> Iterator[Problem]:
    """Raw DeepSpeed settings may add, never contradict."""
    agreed = {"train_batch_size": config.batch.global_size, "train_micro_batch_size_per_gpu": config.batch.micro_size,
              "gradient_clipping": config.train.gradient_clipping, "zero_optimization.stage": config.parallel.zero}
    for name, value in flat(config.parallel.deepspeed):
        owner = next((key for key in (name, name.partition(".")[0]) if key in DEEPSPEED_FOLLOWS), None)
        if owner and not (name in agreed and agreed[name] == value):
            yield Problem(f"parallel.deepspeed.{name}", value, f"is decided by {DEEPSPEED_FOLLOWS[owner]}", f"leave it out; set "
                          f"{DEEPSPEED_FOLLOWS[owner]}")


def flat(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """DeepSpeed settings by dotted name, two levels deep, as DEEPSPEED_FOLLOWS names them."""
    for name, value in settings.items():
        if name == "zero_optimization" and isinstance(value, dict):
            yield from ((f"{name}.{inner}", setting) for inner, setting in value.items())
        else:
            yield name, value


def nearby(candidates: list[int], wanted: int) -> list[int]:
    """The four candidates closest to what was wanted, ascending."""
    return sorted(sorted(candidates, key=lambda candidate: abs(candidate - wanted))[:4])
