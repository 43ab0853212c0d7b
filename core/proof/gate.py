"""The project's own gate: layouts on one to eight processes that together use every axis, schedule, ZeRO stage and model family.

A word without a dot is a key of `parallel`; `optimizer=adamw` is a group. What a row does not say is its family's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...conf.schema import Config
from .layouts import Case, Expected, case_of

Compose = Callable[[list[str]], Config]  # overrides of `hexareme train` -> config

# Weights are drawn wide, so that attention and experts choose sharply and a wrong layout shows at once.
COMMON = (
    "experiment=debug data.train=made data.validation=none schedule=constant schedule.warmup_steps=0 train.gradient_clipping=0.5 "
    "optimizer=sgd optimizer.learning_rate=0.05 optimizer.momentum=0 model.hidden_size=32 model.ffn_hidden_size=64 model.num_layers=2 "
    "model.num_heads=4 model.sequence_length=32 model.vocab_size=128 model.dropout=0.1 model.initializer_std=0.1 "
    "batch.global_size=8 batch.micro_size=2"
)
LLAMA = ("model.positions=rope model.normalization=rmsnorm model.activation=swiglu model.bias=false model.tie_embeddings=false "
         "model.num_kv_heads=2")
FAMILIES = {
    "gpt2": "",
    "llama": LLAMA,
    "mixtral": f"{LLAMA} model.num_experts=4 model.expert_ffn_hidden_size=32 model.router_z_coefficient=0.001",
}
ADAMW = "optimizer=adamw optimizer.learning_rate=0.001"
BF16 = "train.precision=bf16"
FULL, SELECTIVE = "train.recompute=full", "train.recompute=selective"
PLAIN = "sequence_parallel=false"
# Stages take a block each, and schedules many micro-batches.
FOUR, SEVEN, EIGHT = (f"batch.micro_size=1 model.num_layers={count}" for count in (4, 7, 8))
GROUPS = ("optimizer", "schedule", "experiment", "model")


@dataclass(frozen=True)
class Entry:
    """One line of the gate.

    Args:
        family: of FAMILIES.
        processes: ranks.
        words: overrides, `parallel.` left out.
        quick: it is run by `make test`.
        expected: that it runs, or that it is refused.
    """

    family: str
    processes: int
    words: str
    quick: bool = False
    expected: Expected = Expected.runs


GATE = (
    # one process
    Entry("gpt2", 1, "zero=0 batch.micro_size=8"),
    Entry("gpt2", 1, f"zero=1 batch.micro_size=2 {ADAMW}", quick=True),
    Entry("gpt2", 1, f"zero=1 {FULL}"),
    Entry("gpt2", 1, f"zero=3 {SELECTIVE}"),
    Entry("llama", 1, f"zero=2 {ADAMW}"),
    Entry("llama", 1, f"zero=1 {BF16} {ADAMW}"),
    Entry("mixtral", 1, "zero=1 batch.micro_size=2", quick=True),
    # the data axis: ZeRO stages and offload
    Entry("gpt2", 2, "zero=0", quick=True),
    Entry("gpt2", 2, "zero=1 batch.micro_size=4"),
    Entry("gpt2", 2, "zero=1 batch.micro_size=2"),
    Entry("gpt2", 2, "zero=2", quick=True),
    Entry("gpt2", 2, "zero=3", quick=True),
    Entry("gpt2", 2, f"zero=1 {ADAMW}"),
    Entry("gpt2", 2, f"zero=3 {FULL} {ADAMW}"),
    Entry("llama", 2, "zero=1 offload=optimizer"),
    Entry("llama", 2, f"zero=2 offload=optimizer {ADAMW}"),
    Entry("llama", 2, "zero=3 offload=optimizer_and_parameters", quick=True),
    Entry("gpt2", 2, f"zero=2 {BF16} {ADAMW}", quick=True),
    Entry("gpt2", 4, "zero=2"),
    Entry("gpt2", 8, "zero=3 batch.micro_size=1"),
    # the tensor axis, with and without sequence parallelism
    Entry("gpt2", 2, "tp=2 zero=0", quick=True),
    Entry("gpt2", 2, f"tp=2 zero=1 {PLAIN}", quick=True),
    Entry("gpt2", 2, f"tp=2 zero=1 {SELECTIVE}"),
    Entry("gpt2", 2, f"tp=2 zero=1 {FULL} {PLAIN}"),
    Entry("gpt2", 2, f"tp=2 zero=1 {BF16} {ADAMW}"),
    Entry("llama", 2, "tp=2 zero=1 model.attention_dropout=0.1"),
    Entry("llama", 2, f"tp=2 zero=1 {PLAIN} {ADAMW}"),
    Entry("gpt2", 4, "tp=4 zero=1"),
    Entry("gpt2", 4, f"tp=4 zero=0 {PLAIN}"),
    Entry("llama", 4, "tp=4 zero=1", quick=True),  # two key-value heads: each on two ranks
    Entry("llama", 4, f"tp=4 zero=1 {PLAIN}"),
    Entry("gpt2", 4, "tp=4 zero=1 model.vocab_size=50257 model.hidden_size=16 model.ffn_hidden_size=32 model.num_layers=1"),
    Entry("gpt2", 4, "tp=2 zero=2", quick=True),
    Entry("llama", 4, f"tp=2 zero=3 {ADAMW}"),
    Entry("gpt2", 4, f"tp=2 zero=1 offload=optimizer {PLAIN}"),
    # the pipeline axis: every schedule, uneven and virtual stages
    Entry("gpt2", 2, f"pp=2 schedule=gpipe {FOUR}"),
    Entry("gpt2", 2, f"pp=2 schedule=1f1b {FOUR}", quick=True),
    Entry("gpt2", 2, f"pp=2 schedule=interleaved_1f1b virtual_stages=2 {FOUR}"),
    Entry("gpt2", 2, f"pp=2 schedule=interleaved_zero_bubble virtual_stages=2 {FOUR}", quick=True),
    Entry("gpt2", 2, f"pp=2 schedule=zbv {FOUR}", quick=True),
    Entry("gpt2", 2, f"pp=2 schedule=dualpipev {FOUR}"),
    Entry("llama", 2, f"pp=2 schedule=1f1b {FULL} {ADAMW} {FOUR}"),
    Entry("llama", 2, f"pp=2 schedule=interleaved_1f1b virtual_stages=2 {SELECTIVE} {FOUR}"),
    Entry("llama", 2, f"pp=2 schedule=zbv {BF16} {ADAMW} {FOUR}"),
    Entry("gpt2", 4, f"pp=4 schedule=1f1b {SEVEN}", quick=True),
    Entry("gpt2", 4, f"pp=4 schedule=gpipe stage_layers=[1,3,2,1] {SEVEN}"),
    Entry("llama", 4, f"pp=4 schedule=interleaved_1f1b virtual_stages=2 {EIGHT}"),
    Entry("llama", 4, f"pp=4 schedule=interleaved_zero_bubble virtual_stages=2 {EIGHT}"),
    Entry("gpt2", 4, f"pp=4 schedule=zbv {EIGHT}"),
    Entry("gpt2", 4, f"pp=4 schedule=dualpipev {EIGHT}"),
    Entry("gpt2", 4, f"pp=2 schedule=1f1b {FOUR}", quick=True),
    Entry("llama", 4, f"pp=2 tp=2 schedule=1f1b {ADAMW} {FOUR}"),
    Entry("gpt2", 4, f"pp=2 tp=2 schedule=interleaved_zero_bubble virtual_stages=2 {FOUR}"),
    # the context axis, both kinds
    Entry("gpt2", 2, "cp=2 zero=1", quick=True),
    Entry("gpt2", 2, "cp=2 zero=1 context_attention=ulysses", quick=True),
    Entry("llama", 2, f"cp=2 zero=3 {ADAMW}"),
    Entry("llama", 2, f"cp=2 zero=2 context_attention=ulysses {FULL}"),
    Entry("llama", 2, "cp=2 zero=1 data.document_mask=false"),
    Entry("gpt2", 2, "cp=2 zero=0 model.attention_dropout=0.1"),
    Entry("gpt2", 2, f"cp=2 zero=1 {BF16} {ADAMW}"),
    Entry("llama", 4, "cp=4 zero=1"),
    Entry("llama", 4, "cp=4 zero=1 context_attention=ulysses"),
    Entry("llama", 4, f"cp=2 tp=2 zero=1 {SELECTIVE}"),
    Entry("gpt2", 4, "cp=2 zero=2 context_attention=ulysses"),
    # the expert axis
    Entry("mixtral", 2, "ep=2 zero=1", quick=True),
    Entry("mixtral", 2, "ep=2 zero=0 model.num_shared_experts=1"),
    Entry("mixtral", 2, "ep=2 zero=1 model.bias=true optimizer.weight_decay=0.1"),  # biases of experts do not decay
    Entry("mixtral", 2, f"ep=2 zero=2 model.expert_capacity_factor=1.0 {ADAMW}"),
    Entry("mixtral", 2, "tp=2 zero=1 model.router_score=sigmoid model.router_balance=bias"),
    Entry("mixtral", 4, "ep=4 zero=1 batch.micro_size=2"),
    Entry("mixtral", 4, "ep=2 zero=2"),
    Entry("mixtral", 4, "ep=2 cp=2 zero=1 model.expert_capacity_factor=1.0"),
    # three axes and more
    Entry("mixtral", 4, "ep=2 tp=2 zero=1", quick=True),
    Entry("gpt2", 8, f"tp=2 pp=2 zero=1 schedule=1f1b {FOUR}", quick=True),
    Entry("gpt2", 8, f"tp=2 pp=2 zero=1 schedule=zbv batch.global_size=16 {FOUR}"),
    Entry("llama", 8, f"tp=2 pp=2 zero=1 schedule=interleaved_zero_bubble virtual_stages=2 {ADAMW} {FOUR}"),
    Entry("llama", 8, f"tp=2 pp=2 zero=1 schedule=dualpipev {FOUR}"),
    Entry("gpt2", 8, "tp=2 cp=2 zero=3", quick=True),
    Entry("llama", 8, f"tp=2 cp=2 zero=2 context_attention=ulysses {ADAMW}"),
    Entry("gpt2", 8, f"tp=2 pp=2 cp=2 zero=1 schedule=1f1b {FOUR}"),
    Entry("llama", 8, f"pp=2 cp=2 zero=1 schedule=interleaved_1f1b virtual_stages=2 context_attention=ulysses {FOUR}"),
    Entry("llama", 8, f"tp=2 pp=4 zero=1 schedule=zbv {EIGHT}"),
    Entry("mixtral", 8, "ep=2 tp=2 zero=2"),
    Entry("mixtral", 8, f"ep=2 tp=2 pp=2 zero=1 schedule=1f1b {ADAMW} {FOUR}"),
    Entry("mixtral", 8, "ep=4 tp=2 cp=2 zero=1"),
    Entry("mixtral", 8, f"ep=2 pp=2 cp=2 zero=1 schedule=zbv {FOUR}"),
    # what must be refused, with the way out
    Entry("llama", 4, "tp=4 model.hidden_size=48 model.num_heads=6", quick=True, expected=Expected.refused),
    Entry("gpt2", 2, "cp=2 model.sequence_length=34", quick=True, expected=Expected.refused),
    Entry("gpt2", 4, "pp=2 zero=2", quick=True, expected=Expected.refused),
    Entry("mixtral", 2, "ep=2 zero=3", quick=True, expected=Expected.refused),
)


def gate_cases(compose: Compose, *, quick: bool, entries: Sequence[Entry] = GATE) -> list[Case]:
    """The gate's layouts.

    Args:
        compose: from overrides of `hexareme train` to a config.
        quick: only the part that `make test` runs.
        entries: the table.

    Raises:
        ConfigError: a row is no config.
    """
    return [gate_case(compose, entry) for entry in entries if entry.quick or not quick]


def gate_case(compose: Compose, entry: Entry) -> Case:
    """One row as a layout to run."""
    words = " ".join((COMMON, FAMILIES[entry.family], entry.words)).split()
    config = compose([word if "." in word.partition("=")[0] or word.partition("=")[0] in GROUPS and not _is_key(entry, word)
                      else f"parallel.{word}" for word in words])
    case = case_of(config, entry.processes, model=entry.family)
    rest = [word.removeprefix("model.") for word in entry.words.split() if word.startswith(("model.", "data.", "batch.global"))]
    return replace(case, name=", ".join([case.name, *rest]), expected=entry.expected)


def _is_key(entry: Entry, word: str) -> bool:
    """`schedule` is both: a key of parallel where a row says it, a group in COMMON."""
    return word.startswith("schedule=") and word in entry.words.split()
