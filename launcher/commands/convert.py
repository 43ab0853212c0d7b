"""`hexareme convert`: the weights of a checkpoint as safetensors files that any tool opens."""

from pathlib import Path

from ...conf.checkpoint_commands_schema import ConvertConfig, ElementType, Format
from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ..progress import progress_bar


def main(overrides: list[str]) -> int:
    """Writes the weights and says where they lie.

    Returns:
        0.

    Raises:
        ConfigError: the pair of formats is not built yet.
        CheckpointError: nothing whole to read; nothing is written then.
        StorageError: the output exists, or its disk is full or fails.
    """
    config = compose("convert", overrides)
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


def refuse_later(config: ConvertConfig) -> None:
    """What comes with a later release is refused by name."""
    problems = []
    if config.source is not Format.run:
        problems.append(Problem("source", config.source, "is not built yet", "take source=run"))
    if config.target is not Format.safetensors:
        problems.append(Problem("target", config.target, "is not built yet", "take target=safetensors"))
    if problems:
        raise ConfigError(problems)
