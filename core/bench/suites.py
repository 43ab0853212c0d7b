"""The cases of each suite of the bench. Pure but for composing their configs."""

from dataclasses import dataclass, replace

from ...conf.compose import compose
from ...conf.schema import Config
from ...parallel.topology import Topology
from .bubble import Setup
from .table import Limit

BYTES = Limit(tolerance=0.005, relative=True, digits=0)
MEMORY = Limit(tolerance=0.03, relative=True, digits=0)
BUBBLE = Limit(tolerance=0.02, relative=False, digits=4)

# wide and shallow: 13 million parameters that take little time on few tokens
_WIDE = (
    "experiment=debug", "data.train=none", "model.sequence_length=128", "model.vocab_size=512", "model.hidden_size=1024",
    "model.ffn_hidden_size=4096", "model.num_heads=8", "model.num_kv_heads=8", "model.num_layers=1", "model.dropout=0",
    "batch.micro_size=1", "schedule.warmup_steps=0",
)
_LLAMA = ("model.positions=rope", "model.normalization=rmsnorm", "model.activation=swiglu", "model.bias=false",
          "model.tie_embeddings=false", "model.ffn_hidden_size=2816")
_EXPERTS = ("model.num_experts=4", "model.expert_ffn_hidden_size=1024", "model.bias=false")
_FREED = "parallel.deepspeed={zero_optimization: {stage3_max_live_parameters: 0, stage3_max_reuse_distance: 0, " \
    "stage3_param_persistence_threshold: 0, stage3_prefetch_bucket_size: 0}}"


@dataclass(frozen=True)
class Case:
    """A run that is measured.

    Args:
        name: in the table.
        ranks: processes.
        accumulation: micro-batches of each rank.
        overrides: of a training config, beside those of a wide model.
        quick: it is in the part that every test run takes.
    """

    name: str
    ranks: int
    accumulation: int
    overrides: tuple[str, ...]
    quick: bool = False

    def config(self) -> Config:
        """The composed run."""
        found = compose("train", [*_WIDE, "batch.global_size=1", *self.overrides])
        assert isinstance(found, Config)
        parallel = found.parallel
        topology = Topology.divide(world_size=self.ranks, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, ep=parallel.ep)
        found.batch = replace(found.batch, global_size=topology.dp * self.accumulation * found.batch.micro_size)
        return found


def _case(name: str, ranks: int, accumulation: int, keys: str, *more: str, quick: bool = False) -> Case:
    """`keys` are of the section `parallel`."""
    return Case(name, ranks, accumulation, (*(f"parallel.{key}" for key in keys.split()), *more), quick)


ZERO_CASES = (
    _case("ZeRO-0, dp 2, accumulation 2", 2, 2, "zero=0"),
    _case("ZeRO-1, dp 2, accumulation 2", 2, 2, "zero=1", quick=True),
    _case("ZeRO-2, dp 2, accumulation 2", 2, 2, "zero=2"),
    _case("ZeRO-3, dp 2, accumulation 2", 2, 2, "zero=3", quick=True),
)
BYTES_CASES = (
    *ZERO_CASES,
    _case("ZeRO-0, dp 4", 4, 1, "zero=0"),
    _case("ZeRO-1, dp 4, accumulation 2", 4, 2, "zero=1"),
    _case("ZeRO-2, dp 4, accumulation 2", 4, 2, "zero=2"),
    _case("ZeRO-3, dp 4", 4, 1, "zero=3"),
    _case("ZeRO-3, dp 2, weights freed at once", 2, 2, "zero=3", *_LLAMA, _FREED),
    _case("ZeRO-1, dp 2, gradients in bf16", 2, 1, "zero=1", "train.precision=bf16", "train.reduce_precision=bf16"),
    _case("tp 2", 2, 2, "tp=2 sequence_parallel=false"),
    _case("tp 2, sequence parallel", 2, 2, "tp=2", quick=True),
    _case("tp 4, sequence parallel, 2 kv heads, Llama-like", 4, 1, "tp=4", *_LLAMA, "model.num_kv_heads=2"),
    _case("tp 2, sequence parallel, bf16, recomputed", 2, 1, "tp=2", "train.precision=bf16", "train.recompute=full", "model.dropout=0.1"),
    _case("cp 2 x dp 2, ring", 4, 1, "cp=2"),
    _case("cp 4, ring, 2 kv heads, selective recomputation", 4, 1, "cp=4", *_LLAMA, "model.num_kv_heads=2", "train.recompute=selective"),
    _case("cp 2 x dp 2, Ulysses", 4, 1, "cp=2 context_attention=ulysses"),
    _case("pp 2, 1f1b, tied", 2, 4, "pp=2", "model.num_layers=2"),
    _case("pp 2, interleaved_1f1b, untied", 2, 4, "pp=2 schedule=interleaved_1f1b virtual_stages=2", "model.num_layers=4", *_LLAMA),
    _case("pp 2, zbv, tied", 2, 4, "pp=2 schedule=zbv", "model.num_layers=4"),
    _case("ep 2 x dp 4", 4, 1, "ep=2", *_EXPERTS, "model.num_layers=2"),
    _case("ep 2 x tp 2 x dp 4", 8, 1, "ep=2 tp=2", *_EXPERTS, "model.num_layers=2"),
    _case("tp 2 x pp 2 x dp 2", 8, 2, "tp=2 pp=2", "model.num_layers=2"),
    _case("tp 2 x cp 2 x dp 2, ZeRO-3", 8, 1, "tp=2 cp=2 zero=3"),
)
MEMORY_CASES = (
    *ZERO_CASES,
    _case("ZeRO-1, dp 4, accumulation 2", 4, 2, "zero=1"),
    _case("ZeRO-2, dp 4, accumulation 2", 4, 2, "zero=2"),
    _case("ZeRO-3, dp 4, accumulation 2", 4, 2, "zero=3"),
    _case("tp 2 x dp 2, ZeRO-1, accumulation 2", 4, 2, "tp=2 zero=1"),
)
SETUPS = (Setup("gpipe"), Setup("1f1b"), Setup("interleaved_1f1b", 2), Setup("interleaved_zero_bubble", 2), Setup("zbv", 2),
          Setup("dualpipev", 2))
QUICK_SCHEDULES = ("1f1b", "zbv")
