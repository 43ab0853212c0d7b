"""Exact and near duplicates over a whole corpus, from its signature records on disk, in memory that does not grow with it.

1. Records of equal 128-bit hashes are exact duplicates.
2. Of the rest, records that agree in all rows of a band are candidates; those of which enough hashes agree in all are near duplicates.
3. Pairs make clusters (union-find); the first document of a cluster stays. So a chain of near duplicates keeps only its head.

With similarity s of the shingle sets (Jaccard), b bands of r rows make a candidate with probability 1 - (1 - s^r)^b (Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", 3.4); `removal_probability` adds the second condition.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DataError
from .clusters import Clusters
from .key_groups import Groups, KeyPartitions
from .signatures import SignatureShape
from .word_hashes import mixed

KEPT, EXACT, NEAR = 0, 1, 2  # the codes of `Duplicates.codes`
LEADERS = 8  # members of a band's group with which the rest is compared; a page of boilerplate does not make it quadratic
_BLOCK = 1 << 14  # records read at once: 8 MB
_PAIRS = 1 << 13  # pairs compared at once: 8 MB of records


@dataclass(frozen=True)
class Duplicates:
    """What is to go. Both lie in files of the work folder, by ordinal.

    Args:
        codes: uint8 (documents,): KEPT, EXACT or NEAR.
        kept: uint32 or uint64 (documents,): the ordinal of the document that stays for this one; its own where it is kept.
    """

    codes: np.ndarray
    kept: np.ndarray


def find_duplicates(signatures: Path, shape: SignatureShape, *, similarity: float, folder: Path,
                    progress: Callable[[float], None] = lambda done: None) -> Duplicates:
    """Finds the documents that repeat an earlier one. A function of the file alone; interrupted, it begins anew.

    Needs beside the signatures 16 bytes of disk for each document and band, and 6 for each document.

    Args:
        signatures: records of `Signer`, in the order of the corpus.
        shape: with which they were made.
        similarity: estimated Jaccard similarity from which documents are near duplicates, 0 .. 1.
        folder: made for its work; whatever it holds is deleted.
        progress: told the part that is done, 0 .. 1.

    Raises:
        DataError: the file is no whole number of records.
    """
    size = signatures.stat().st_size
    if size % shape.record.itemsize:
        raise DataError(f"{size} bytes are no whole number of signatures of {shape.record.itemsize}", do="run prepare again",
                        file=signatures)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count = size // shape.record.itemsize
    if not count:
        return Duplicates(np.empty(0, np.uint8), np.empty(0, np.uint32))
    with signatures.open("rb") as file:
        search = _Search(file, shape, count, folder)
        exact_part = 0.2 if shape.near else 1.0  # of the time, measured
        search.exact(lambda done: progress(done * exact_part))
        if shape.near:
            search.near(ceil(similarity * shape.hashes - 1e-9), lambda done: progress(exact_part + done * (1 - exact_part)))
        return search.result()


def removal_probability(jaccard: float, shape: SignatureShape, similarity: float) -> float:
    """The probability that a pair is found: a whole band agrees, and at least similarity x hashes in all.

    Args:
        jaccard: true similarity of the shingle sets.
        shape: bands and rows.
        similarity: the estimate's threshold; 0 gives 1 - (1 - s^r)^b.
    """
    each = np.ones(1)
    for _ in range(shape.rows):
        each = np.convolve(each, [1 - jaccard, jaccard])
    no_band = each.copy()
    no_band[-1] = 0
    total, without = np.ones(1), np.ones(1)  # probabilities of 0, 1, 2 ... equal hashes; the second with no whole band
    for _ in range(shape.bands):
        total, without = np.convolve(total, each), np.convolve(without, no_band)
    return float((total - without)[ceil(similarity * shape.hashes - 1e-9):].sum())


class _Search:
    """The steps of `find_duplicates`, over one file."""

    def __init__(self, file: BinaryIO, shape: SignatureShape, count: int, folder: Path) -> None:
        self._file = file
        self._shape = shape
        self._count = count
        self._folder = folder
        self._codes = np.memmap(folder / "codes.u8", np.uint8, "w+", shape=(count,))
        self._clusters = Clusters(folder / "kept.u", count)

    def exact(self, progress: Callable[[float], None]) -> None:
        partitions = KeyPartitions(self._folder / "exact")
        for begin, block in self._blocks():
            partitions.add(block["exact"][:, 1], np.arange(begin, begin + len(block), dtype=np.uint64))
            progress(0.5 * (begin + len(block)) / self._count)
        for groups in partitions.groups(lambda done: progress(0.5 + 0.5 * done)):
            # Half of the hash made the group; the whole must agree with its first.
            equal = self._compare(groups.first, groups.member, lambda one, other: (one["exact"] == other["exact"]).all(axis=1))
            self._clusters.join(groups.first[equal], groups.member[equal])
            self._codes[groups.member[equal]] = EXACT

    def near(self, least: int, progress: Callable[[float], None]) -> None:
        partitions = KeyPartitions(self._folder / "bands")
        for begin, block in self._blocks():
            wanted = np.flatnonzero((self._codes[begin:begin + len(block)] == KEPT) & (block["shingles"] > 0))
            keys = _band_keys(block["minhash"][wanted], self._shape)
            numbers = np.repeat((wanted + begin).astype(np.uint64), self._shape.bands)
            partitions.add(keys.ravel(), numbers)
            progress(0.4 * (begin + len(block)) / self._count)
        for groups in partitions.groups(lambda done: progress(0.4 + 0.6 * done)):
            self._join_near(groups, least)

    def _join_near(self, groups: Groups, least: int) -> None:
        """Compares the members of each group with its first; those unlike it with the first of these; and so on."""
        leader, member, group = groups.first, groups.member, groups.group
        for _ in range(LEADERS):
            if not len(member):
                return
            found = self._clusters.roots(leader) == self._clusters.roots(member)  # by another band
            asked = np.flatnonzero(~found)
            near = asked[self._compare(leader[asked], member[asked],
                                       lambda one, other: (one["minhash"] == other["minhash"]).sum(axis=1) >= least)]
            self._clusters.join(leader[near], member[near])
            found[near] = True
            member, group = member[~found], group[~found]
            heads = np.ones(len(member), bool)
            heads[1:] = group[1:] != group[:-1]
            leader = member[heads][np.cumsum(heads) - 1]
            member, group, leader = member[~heads], group[~heads], leader[~heads]

    def _compare(self, one: np.ndarray, other: np.ndarray, agree: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """What `agree` says of the records of each pair, bool (pairs,)."""
        result = np.zeros(len(one), bool)
        for begin in range(0, len(one), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            result[part] = agree(self._at(one[part]), self._at(other[part]))
        return result

    def _at(self, ordinals: np.ndarray) -> np.ndarray:
        """The records of documents; read, not mapped: a mapping would count 64 KiB around each as this process's memory."""
        size = self._shape.record.itemsize
        data = b"".join(os.pread(self._file.fileno(), size, ordinal * size) for ordinal in ordinals.tolist())
        return np.frombuffer(data, self._shape.record)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first ordinal, records) through the file."""
        self._file.seek(0)
        for begin in range(0, self._count, _BLOCK):
            yield begin, np.fromfile(self._file, self._shape.record, _BLOCK)

    def result(self) -> Duplicates:
        kept = self._clusters.flatten()
        for begin in range(0, self._count, _BLOCK):
            codes = self._codes[begin:begin + _BLOCK]
            gone = kept[begin:begin + _BLOCK] != np.arange(begin, begin + len(codes))
            codes[gone & (codes == KEPT)] = NEAR
        self._codes.flush()
        return Duplicates(self._codes, kept)


def _band_keys(minhash: np.ndarray, shape: SignatureShape) -> np.ndarray:
    """A key for each band, equal when all its rows are; uint64 (documents, bands).

    Args:
        minhash: uint32 (documents, bands * rows).
        shape: of the signatures.
    """
    rows = minhash.reshape(-1, shape.bands, shape.rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(shape.bands, dtype=np.uint64), rows.shape[:2])
    for row in range(shape.rows):
        keys = mixed((keys + rows[:, :, row]) * np.uint64(0x9E3779B97F4A7C15))
    return keys
