"""Every key of the commands that read a finished or running run: evaluate, generate, report, bench."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .fields import items, number, text
from .schema import LayoutConfig, ModelConfig


class Part(StrEnum):
    train = "train"
    validation = "validation"


class Baseline(StrEnum):
    none = "none"
    bigram = "bigram"


class Suite(StrEnum):
    overhead = "overhead"
    bytes = "bytes"
    bubble = "bubble"
    memory = "memory"
    checkpoint = "checkpoint"
    tokenize = "tokenize"
    data = "data"


@dataclass(kw_only=True)
class LocalRanksConfig:
    """Ranks of a command that starts them itself; where torchrun, srun or deepspeed started it, theirs are used."""

    ranks_per_node: int = number(0, least=0, help="processes on this machine; 0: as many as the degrees need")


@dataclass(kw_only=True)
class EvaluateConfig:
    """Loss and perplexity of a checkpoint on a corpus."""

    directory: str = text("", help="run folder; its newest whole checkpoint is taken")
    checkpoint: str = text("", help="checkpoint folder, where it is not a run's newest")
    corpus: str = text("", help="corpus folder or Megatron prefix; empty: what the run validates on. As in its validation, the loss counts "
                                "the answers of conversations (task=chat), the targets of data.objective.name=span_corruption, otherwise "
                                "each next token")
    part: Part = text(Part.validation, help="which part of the corpus")
    samples: int = number(0, least=0, help="samples (windows of the model's sequence length); 0: all")
    micro_size: int = number(8, least=1, help="samples of one forward pass")
    baseline: Baseline = text(Baseline.none, help="bigram: also an interpolated Kneser-Ney bigram model of the corpus' training part")
    output: str = text("", help="JSON file for the result; empty: only printed")
    parallel: LayoutConfig
    cluster: LocalRanksConfig


@dataclass(kw_only=True)
class GenerateConfig:
    """Text from a checkpoint."""

    directory: str = text("", help="run folder; its newest whole checkpoint is taken")
    checkpoint: str = text("", help="checkpoint folder, where it is not a run's newest")
    tokenizer: str = text("", help="tokenizer folder or file; empty: the one of the run's corpus")
    prompt: str = text("", help="text to go on from; empty: the start of a document")
    max_new_tokens: int = number(128, least=1, help="tokens to generate at most")
    temperature: float = number(1.0, least=0, help="0: greedy; below 1 sharper, above 1 flatter")
    top_k: int = number(0, least=0, help="draw from the k likeliest tokens; 0: from all")
    top_p: float = number(1.0, above=0, most=1, help="draw from the smallest set of tokens with this much probability")
    seed: int = number(0, least=0, most=2**63 - 1, help="the same seed gives the same text")
    stop: list[str] = items(help="texts that end the generation")
    stream: bool = text(True, help="print each token as soon as it is drawn")
    output: str = text("", help="JSON file for the result; empty: only printed")
    parallel: LayoutConfig
    cluster: LocalRanksConfig


@dataclass(kw_only=True)
class ReportConfig:
    """A run's curves as PNG files and one HTML file."""

    directory: Any = text(help="run folder, or a list of them to compare")
    output: str = text("", help="folder for the report; empty: report/ in the (first) run folder")


@dataclass(kw_only=True)
class WatchConfig:
    """A run live in the terminal."""

    directory: str = text(help="run folder")
    seconds: float = number(1.0, above=0, help="between two looks")
    last: int = number(0, least=0, help="draw only so many steps; 0: all")
    once: bool = text(False, help="draw once and end; so it is where the output is no terminal")


@dataclass(kw_only=True)
class BenchConfig:
    """Measures what the performance table claims."""

    suite: Suite = text(Suite.overhead, help="what is measured: CPU time of a step; bytes that each rank sends; the bubble of pipeline "
                        "schedules; bytes of state that each rank holds; seconds of a save and a load. All but the first stand beside "
                        "their theory, or beside the bare disk and memory; data: opening, shuffled samples and memory beside "
                        "Megatron-core and nanoGPT; tokenize: encoding and prepare beside tiktoken and Hugging Face tokenizers")
    quick: bool = text(False, help="bytes, bubble, memory: only the few cases that every test run takes")
    only: str = text("", help="bytes, bubble, memory: a part of the names of the cases to run; empty: all")
    pass_ms: float = number(100.0, above=0, help="bubble: milliseconds of one pass through a stage")
    steps: int = number(50, least=1, help="overhead: timed steps of one round")
    rounds: int = number(5, least=1, help="overhead, checkpoint, tokenize: rounds; the median counts")
    state_bytes: int = number(10**9, least=10**6, help="checkpoint: size of the state of all ranks")
    ranks: int = number(1, least=1, help="checkpoint: processes that save it together")
    directory: str = text(".", help="checkpoint, data, tokenize: folder on the disk under test; nothing stays in it")
    micro_size: int = number(4, least=1, help="overhead: samples of one step")
    tokens: int = number(400_000_000, least=100_000, help="data: tokens of the corpus that is made (two bytes each)")
    documents: int = number(2_000_000, least=1, help="data: its documents")
    sequence_length: int = number(2048, least=1, help="data: tokens of a sample")
    samples: int = number(8192, least=64, help="data: samples of one timed round")
    text_bytes: int = number(2 * 10**9, least=10**5, help="tokenize: size of the text that is made")
    document_bytes: int = number(10**8, least=10**5, help="tokenize: size of the one long document")
    output: str = text("", help="JSON file for the result; empty: only printed")
    model: ModelConfig
