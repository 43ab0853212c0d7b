"""A token file writer that is interrupted and goes on writes the bytes of one that was not."""

import dataclasses
import json
import random

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.tokens import description, writer
from hexareme.data.tokens.writer import TokenFileWriter, WriterPosition


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(3)
    lengths = [generator.integers(0, 900, 7) for _ in range(40)]
    return [(generator.integers(0, 60_000, int(part.sum())), part) for part in lengths]


def write(prefix, start=None, *, begin=0, stop=None, finish=True):
    """Batches begin..stop; gives the position then."""
    made = TokenFileWriter(prefix, np.uint16, start=start, keep=True)
    for ids, lengths in batches()[begin:stop]:
        made.add_documents(ids, lengths)
    position = made.position()
    if finish:
        return made.finish()
    return json.loads(json.dumps(dataclasses.asdict(position))), made


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 KiB: the 250 kB of a test are several whole ones and a rest."""
    for module in (description, writer):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 16)


@pytest.mark.usefixtures("small_blocks")
def test_the_same_bytes_after_any_interruption(tmp_path):
    whole = write(tmp_path / "whole")
    assert len(whole.bin.blocks) > 3
    for seed in range(10):
        at = random.Random(seed).randrange(41)
        position, made = write(tmp_path / f"{seed}", stop=at, finish=False)
        for ids, lengths in batches()[at : at + seed % 4]:  # written, but in no journal
            made.add_documents(ids, lengths)
        if seed % 3 == 0:
            made.finish()  # killed between the names of the files and the journal
        else:
            made.abort()
        assert write(tmp_path / f"{seed}", WriterPosition(**position), begin=at) == whole
        for suffix in (".bin", ".idx"):
            assert (tmp_path / f"{seed}{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
        assert not list(tmp_path.glob("*.writing"))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("file", "change"), [
    ("x.bin.writing", lambda data: data[:-1]),
    ("x.idx.writing", lambda data: data[:-1]),
    ("x.bin.writing", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
    ("x.idx.writing", lambda data: data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]),
])
def test_what_was_not_written_so_is_refused(tmp_path, file, change):
    position, made = write(tmp_path / "x", stop=30, finish=False)
    made.abort()
    path = tmp_path / file
    path.write_bytes(change(path.read_bytes()))
    for _ in range(2):  # the first refusal leaves no lock
        with pytest.raises(DataError, match="shorter than|is not what was written"):
            TokenFileWriter(tmp_path / "x", np.uint16, start=WriterPosition(**position), keep=True)
