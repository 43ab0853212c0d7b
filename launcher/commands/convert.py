"""`hexareme convert`: weights as safetensors files that any tool opens; token files merged and in other formats."""

from collections.abc import Callable
from pathlib import Path

from ...conf.checkpoint_commands_schema import ConvertConfig, ElementType, Format
from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ..progress import progress_bar

TOKEN_SOURCES = (Format.tokens, Format.nanogpt)
TOKEN_TARGETS = (Format.corpus, Format.megatron, Format.nanogpt)


def main(overrides: list[str]) -> int:
    """Writes the weights or the tokens and says where they lie.

    Returns:
        0.

    Raises:
        ConfigError: the pair of formats is not built yet, or does not fit.
        DataError: token files that are damaged or unlike, or an output that exists; nothing is written then.
        CheckpointError: nothing whole to read; nothing is written then.
        StorageError: the output exists, or its disk is full or fails.
    """
    config = compose("convert", overrides)
    if config.source in TOKEN_SOURCES:
        return convert_tokens(config)
    refuse_later(config)
    from ...core.checkpoint.export import KINDS, export
    from ...core.checkpoint.storage import in_words
    from ...core.checkpoint.summary import size_of
    from ...core.inference import find_checkpoint

    checkpoint = find_checkpoint(Path(config.path))
    total = sum(size_of(tensor) for tensor in checkpoint.manifest.tensors if tensor.kind in KINDS)
    done = 0
    with progress_bar("writing") as progress:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(min(done, total), total)

        dtype = None if config.dtype is ElementType.saved else config.dtype.value
        exported = export(checkpoint, Path(config.output), shard_bytes=config.shard_bytes, dtype=dtype, tick=tick)
    print(f"{exported.tensors} tensors, {in_words(exported.bytes)}, from {checkpoint.folder}")
    for file in exported.files:
        print(file)
    return 0


def convert_tokens(config: ConvertConfig) -> int:
    """Merges token files, in whatever format."""
    if config.target not in TOKEN_TARGETS:
        problem = Problem("target", config.target, f"is no format of tokens (source={config.source})", "take corpus, megatron or nanogpt")
        raise ConfigError([problem])
    path = "|".join(config.path) if isinstance(config.path, list) else str(config.path)
    if config.source is Format.nanogpt and "@" not in path:
        problem = Problem("path", path, "does not say which id closes a document", f"write path={path}@50256 with the id of your tokenizer")
        raise ConfigError([problem])
    from ...data.tokens.merge import Merged, to_corpus, to_megatron, to_nanogpt

    targets: dict[Format, Callable[[str, Path], Merged]] = {
        Format.corpus: to_corpus, Format.megatron: to_megatron, Format.nanogpt: to_nanogpt,
    }
    merged = targets[config.target](path, Path(config.output))
    print(f"{merged.documents:,} documents, {merged.tokens:,} tokens")
    for file in merged.files:
        print(file)
    return 0


def refuse_later(config: ConvertConfig) -> None:
    """What comes with a later release is refused by name."""
    problems = []
    if not isinstance(config.path, str):
        problems.append(Problem("path", config.path, "is not one path", "name one run or checkpoint"))
    if config.source is not Format.run:
        problems.append(Problem("source", config.source, "is not built yet", "take source=run"))
    if config.target is not Format.safetensors:
        problems.append(Problem("target", config.target, "is not built yet", "take target=safetensors"))
    if problems:
        raise ConfigError(problems)
