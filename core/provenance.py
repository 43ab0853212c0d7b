"""What wrote a checkpoint, in words, and what W&B calls the run: kept in the checkpoint's `extra`. Pure."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..conf.schema import Config

WRITTEN_BY, WANDB_RUN_ID = "written_by", "wandb_run_id"
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def provenance(config: Config, *, world_size: int) -> dict[str, Any]:
    """What a checkpoint says of the run that writes it.

    Args:
        config: of the run.
        world_size: ranks.
    """
    parallel = config.parallel
    dp = world_size // (parallel.tp * parallel.pp * parallel.cp)
    layout = f"tp {parallel.tp} x pp {parallel.pp} x cp {parallel.cp} x dp {dp}, ep {parallel.ep}, ZeRO-{parallel.zero}"
    found: dict[str, Any] = {
        WRITTEN_BY: {"hexareme": version("hexareme"), "layout": layout, "ranks": world_size, "precision": config.train.precision.value}
    }
    run_id = read_run_id(Path(config.run.directory))
    return found | ({WANDB_RUN_ID: run_id} if run_id else {})


def read_run_id(directory: Path) -> str | None:
    """The id of the W&B run in a run's folder; None where there is none."""
    try:
        text = _run_id_file(directory).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _RUN_ID.fullmatch(text) else None


def restore_run_id(directory: Path, extra: Mapping[str, Any]) -> None:
    """Give a run's folder that has lost its W&B id, or never had one, the id of the checkpoint that it goes on from.

    Args:
        directory: of the run.
        extra: of the checkpoint.
    """
    saved = extra.get(WANDB_RUN_ID)
    if isinstance(saved, str) and _RUN_ID.fullmatch(saved) and not _run_id_file(directory).exists():
        _run_id_file(directory).parent.mkdir(parents=True, exist_ok=True)
        _run_id_file(directory).write_text(f"{saved}\n")


def _run_id_file(directory: Path) -> Path:
    return directory / "wandb" / "run_id"
