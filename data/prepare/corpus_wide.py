"""The search for duplicates as a step of `prepare`: between the signatures in the staging folder and the verdict that it leaves there."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..clean.duplicates import find_duplicates
from ..clean.settings import DuplicateSettings
from ..clean.signatures import SignatureShape
from ..tokens.description import describe_file
from .journal import StagingDamaged
from .progress import Progress

SIGNATURES = "signatures"
_VERDICT = "verdict"
_WORK = "duplicates"


def signature_shape(settings: DuplicateSettings) -> SignatureShape | None:
    """How documents are compared; None: they are not."""
    if not (settings.exact or settings.near):
        return None
    return SignatureShape(near=settings.near, words=settings.shingle, bands=settings.bands, rows=settings.rows, seed=settings.seed)


def search_duplicates(staging: Path, shape: SignatureShape, similarity: float, progress: Progress) -> dict[str, Any]:
    """Writes the verdict, one byte for each document: 0 it stays, else the code of the rule that removes it.

    Args:
        staging: where the signatures lie.
        shape: of the signatures.
        similarity: from which documents are near duplicates.
        progress: is told how much of the work is done, as bytes of the signatures.

    Returns:
        For `load_verdict`; plain values.
    """
    total = (staging / SIGNATURES).stat().st_size
    progress.phase("looking for duplicates", total)
    told = 0

    def tell(part: float) -> None:
        nonlocal told
        more = int(part * total) - told
        told += more
        progress.advance(more, 0, 0)

    found = find_duplicates(staging / SIGNATURES, shape, similarity=similarity, folder=staging / _WORK, progress=tell)
    path = staging / _VERDICT
    with path.open("wb") as stream:
        found.codes.tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())
    shutil.rmtree(staging / _WORK)
    return {"documents": len(found.codes), "blocks": [*describe_file(path).blocks]}


def load_verdict(staging: Path, written: dict[str, Any]) -> np.ndarray:
    """The verdict, uint8 (documents,), mapped.

    Raises:
        StagingDamaged: it is not what was written.
    """
    path = staging / _VERDICT
    if not path.exists() or [*describe_file(path).blocks] != written["blocks"]:
        raise StagingDamaged("the verdict on duplicates is damaged")
    return np.memmap(path, np.uint8, "r", shape=(written["documents"],))
