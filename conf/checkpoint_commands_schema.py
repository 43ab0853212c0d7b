"""Every key of the commands that look at checkpoints and convert them: inspect, convert."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .fields import number, text


class Format(StrEnum):
    run = "run"
    safetensors = "safetensors"
    huggingface = "huggingface"
    megatron = "megatron"
    tokens = "tokens"
    corpus = "corpus"
    nanogpt = "nanogpt"


class ElementType(StrEnum):
    saved = "saved"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(kw_only=True)
class InspectConfig:
    """What a checkpoint or a run contains."""

    checkpoint: str = text("", help="checkpoint folder: what it holds; or run folder: its checkpoints")
    directory: str = text("", help="run folder: its checkpoints, the newest whole one, the damaged ones")
    verify: bool = text(False, help="read every block and check it; names every damaged file and block")
    filter: str = text("*", help="which tensors are listed: a pattern as in *.mlp.*")
    corpus: str = text("", help="corpus folder or token files: counts, lengths, samples; reads and checks every block")
    preview: int = number(0, least=0, most=1000, help="with corpus: so many samples token by token, in colour with their loss mask")
    step: int = number(0, least=0, help="with directory: what this step was made of, sample by sample; 0: none")
    ranks: int = number(0, least=0, help="with step: ranks that it ran on, where the run has not recorded them; 0: as its config says")
    output: str = text("", help="JSON file for the result; empty: only printed")


@dataclass(kw_only=True)
class ConvertConfig:
    """A checkpoint as plain weights; token files merged and in other formats."""

    source: Format = text(Format.run, help="what is read: a run's weights, or tokens (nanogpt: the same, of nanoGPT's files)")
    target: Format = text(Format.safetensors, help="what is written: plain weights under Hexareme's names (safetensors); of tokens a "
                          "corpus folder (corpus), a .bin and .idx (megatron), or ids alone (nanogpt)")
    path: Any = text(help="run folder (its newest whole checkpoint) or checkpoint folder; of tokens as data.train: a corpus folder, a "
                     "prefix, train.bin@50256 (nanoGPT's file @ its end-of-document id), a pattern, or a list, which is merged")
    output: str = text(help="new folder, or new file *.safetensors that takes all weights; for megatron a prefix, for nanogpt a file")
    shard_bytes: int = number(5 * 10**9, least=1, help="most bytes of one file of a folder; a larger tensor has a file of its own")
    dtype: ElementType = text(ElementType.saved, help="element type of the weights; saved: as in the checkpoint")
