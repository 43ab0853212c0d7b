"""`hexareme inspect`: what a corpus, a checkpoint, the checkpoints of a run, or a step of it contain; finds all that is damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...conf.checkpoint_commands_schema import InspectConfig
from ...conf.compose import compose, load_yaml
from ...conf.errors import ConfigError, Problem
from ..inspect_corpus import of_corpus
from ..progress import progress_bar


def main(overrides: list[str]) -> int:
    """Prints a description; writes it as JSON where `output` names a file.

    Returns:
        0: healthy; 1: something is damaged.

    Raises:
        ConfigError: what is asked for is not there, or not built yet.
        CheckpointError, DataError: there is nothing to look at.
    """
    config = compose("inspect", overrides)
    refuse(config)
    path = Path(config.checkpoint or config.directory)
    if config.corpus:
        described = of_corpus(config)
    elif config.step:
        described = of_step(config, path)
    else:
        described = of_run(config, path) if (path / "checkpoints").is_dir() else of_checkpoint(config, path)
    if config.output:
        Path(config.output).write_text(json.dumps(described, indent=1) + "\n")
    return int(bool(described["findings"]))


def of_checkpoint(config: InspectConfig, folder: Path) -> dict[str, Any]:
    """Prints what one checkpoint holds, and what is wrong with it."""
    from ...core.checkpoint.reader import Checkpoint
    from ...core.checkpoint.summary import describe, findings, lines, total_bytes

    described: dict[str, Any]
    found = verified(config, total_bytes([folder]), lambda tick: findings(folder, blocks=config.verify, tick=tick))
    if not (folder / "manifest.json").is_file():
        Checkpoint.open(folder)  # says what is missing
    try:
        described = describe(Checkpoint.open(folder), config.filter)
    except Exception:
        if not found:
            raise
        described = {"checkpoint": str(folder)}
    else:
        print("\n".join(lines(described)))
    print(f"\n{verdict(config, found)}")
    return described | {"findings": found}


def of_run(config: InspectConfig, run: Path) -> dict[str, Any]:
    """Prints the checkpoints of a run."""
    from ...core.checkpoint.folder import step_folders
    from ...core.checkpoint.summary import describe_run, run_lines, total_bytes

    total = total_bytes(step_folders(run / "checkpoints"))
    described = verified(config, total, lambda tick: describe_run(run, blocks=config.verify, tick=tick))
    found = [each for row in described["checkpoints"] for each in row["findings"]]
    found += [described["latest_fault"]] if described["latest_fault"] else []
    print("\n".join(run_lines(described)))
    print(f"\n{verdict(config, found)}")
    return described | {"findings": found}


def of_step(config: InspectConfig, run: Path) -> dict[str, Any]:
    """Prints what a step of a run was made of."""
    from ...core.explain import explain_step
    from ...core.explain_lines import step_lines

    described = explain_step(load_yaml(run / "config.yaml"), run, config.step, ranks=config.ranks)
    print("\n".join(step_lines(described)))
    return described | {"findings": []}


def verified(config: InspectConfig, total: int, action: Callable[[Callable[[int], None]], Any]) -> Any:
    """Does something that reads `total` bytes if every block is to be checked, with a bar."""
    done = 0
    with progress_bar("checking", shown=config.verify) as progress:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total)

        return action(tick)


def verdict(config: InspectConfig, found: list[str]) -> str:
    """The last lines: what is wrong, or how far it was checked."""
    if found:
        return "\n".join([f"{len(found)} findings:", *(f"  {each}" for each in found)])
    checked = "every block was read and checked" if config.verify else "manifest and file sizes are right; verify=true checks every block"
    return f"whole: {checked}"


def refuse(config: InspectConfig) -> None:
    """One thing is looked at."""
    there_is = "take corpus=<folder>, checkpoint=<folder> or directory=<run>"
    given = {key: value for key in ("corpus", "checkpoint", "directory") if (value := getattr(config, key))}
    problems = []
    if len(given) != 1:
        which = f"and {' and '.join([*given][1:])} are both given" if given else "and corpus and directory are all empty"
        problems = [Problem(next(iter(given), "checkpoint"), next(iter(given.values()), ""), which, there_is)]
    elif config.preview and not config.corpus:
        problems = [Problem("preview", config.preview, "shows samples of a corpus, and corpus is empty", "give corpus=<folder>")]
    if not problems and config.step and not config.directory:
        problems = [Problem("step", config.step, "is a step of a run, and directory is empty", "give directory=<run folder>")]
    if problems:
        raise ConfigError(problems)
