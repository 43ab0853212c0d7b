"""Duplicates over a corpus of real text with planted copies, against sets of words counted in plain Python."""

from pathlib import Path

import numpy as np
from hexareme.data.clean.duplicates import EXACT, KEPT, NEAR, find_duplicates
from hexareme.data.clean.signatures import SignatureShape, Signer

SHAPE = SignatureShape()


def find(texts: list[str], folder: Path, *, shape: SignatureShape = SHAPE, similarity: float = 0.8):
    path = folder / "signatures"
    Signer(shape)(texts).tofile(path)
    return find_duplicates(path, shape, similarity=similarity, folder=folder / "work")


def test_first(tmp_path: Path):
    words = [f"word{i}" for i in range(300)]
    base = " ".join(words)
    near = " ".join([*words[:150], "changed", *words[151:]])
    found = find(["other " * 4, base, "x", near, base, "x", " ".join(reversed(words))], tmp_path)
    assert found.codes.tolist() == [KEPT, KEPT, KEPT, NEAR, EXACT, EXACT, KEPT]
    assert found.kept.tolist() == [0, 1, 2, 1, 1, 2, 6]
    assert np.array_equal(find(["a", "b"], tmp_path).codes, [0, 0])
