"""What a corpus holds: counts, lengths of its documents, samples, and whether every block is what was written. Imports no torch."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.errors import DataError
from ..data.tokenizer.tokenizer import load_tokenizer
from ..data.tokens.arrays import array_path, damaged_blocks, open_array
from ..data.tokens.description import (
    BLOCK_BYTES,
    FILE_NAME,
    CorpusDescription,
    describe_file,
    described_files,
    read_description,
    unwatched,
)
from ..data.tokens.mapped_file import TokenFile
from ..data.tokens.places import Place, locate
from ..data.tokens.raw_origins import RawOrigins
from ..data.tokens.token_file import largest_id, open_corpus

TASK_ARRAYS = ("mask", "rows", "labels")
PERCENTILES = (5, 25, 50, 75, 95, 99)
SAMPLES, SAMPLE_TOKENS = 3, 80
_EXACT = 1 << 20  # longer documents are rare enough to be kept one by one
_CHUNK = 1 << 18  # documents at a time


def describe_corpus(path: str, tick: Callable[[int], None]) -> dict[str, Any]:
    """Everything about a corpus folder or token files, with `findings`: what is damaged.

    Args:
        path: as in data.train.
        tick: told how many more bytes were read.

    Raises:
        DataError: there is nothing to look at.
    """
    if not Path(path).is_dir():
        return _of_token_files(path)
    folder, description = Path(path), read_description(path)
    findings = check_blocks(folder, description, tick)
    described: dict[str, Any] = {"corpus": path, "task": asdict(description.task), "tokenizer": asdict(description.tokenizer), "parts": {}}
    for part, entry in description.parts.items():
        facts: dict[str, Any] = {"documents": entry.documents, "tokens": entry.tokens, "dtype": entry.dtype, "largest_id": entry.largest_id}
        if not any(finding.startswith(f"{folder / part}.") for finding in findings):
            facts |= lengths(locate(path, part)) | _of_task(folder, description, part)
        described["parts"][part] = facts
    if not findings:
        described["samples"] = _samples(path)
    report = folder / "clean_report.json"
    if report.is_file():
        described["clean_report"] = json.loads(report.read_text(encoding="utf-8"))
    return described | {"findings": findings}


def check_blocks(folder: Path, description: CorpusDescription, tick: Callable[[int], None]) -> list[str]:
    """Reads every file of a corpus and compares each block of 16 MiB with its checksum; names what differs."""
    findings = []
    for name, expected in described_files(description):
        path = folder / name
        if not path.is_file():
            findings.append(f"{path} is missing")
            continue
        found = describe_file(path, lambda: tick(2**20))
        if found.size != expected.size:
            findings.append(f"{path} has {found.size} bytes, {FILE_NAME} says {expected.size}")
        for block in damaged_blocks(found, expected):
            end = min((block + 1) * BLOCK_BYTES, max(found.size, expected.size))
            findings.append(f"{path} block {block} (bytes {block * BLOCK_BYTES} to {end}) does not have its checksum")
    return findings


def total_bytes(path: str) -> int:
    """What `describe_corpus` will read."""
    return sum(entry.size for _, entry in described_files(read_description(path))) if Path(path).is_dir() else 0


def lengths(places: list[Place]) -> dict[str, Any]:
    """Tokens of the documents: mean, least, most, percentiles, and how many lie in each power of two.

    In bounded memory, and the percentiles exact.
    """
    counts, longer = np.zeros(_EXACT, dtype=np.int64), []
    for place in places:
        for part in _document_lengths(place):
            counts += np.bincount(part[part < _EXACT], minlength=_EXACT)
            longer.append(part[part >= _EXACT])
    values = np.concatenate([np.flatnonzero(counts), np.sort(np.concatenate([np.empty(0, dtype=np.int64), *longer]))])
    weights = np.concatenate([counts[counts > 0], np.ones(len(values) - int((counts > 0).sum()), dtype=np.int64)])
    if not len(values):
        return {}
    upto = np.cumsum(weights)
    at = {str(p): int(values[np.searchsorted(upto, p / 100 * upto[-1])]) for p in PERCENTILES}
    bins = np.frexp(np.maximum(values, 1))[1] - 1  # floor of the logarithm
    powers = range(int(bins.min()), int(bins.max()) + 1)
    histogram = [{"from": 1 << b, "to": (2 << b) - 1, "documents": int(weights[bins == b].sum())} for b in powers]
    mean = float((values * weights).sum() / upto[-1])
    return {"lengths": {"mean": mean, "least": int(values[0]), "most": int(values[-1]), "percentiles": at}, "histogram": histogram}


def _document_lengths(place: Place) -> Iterator[np.ndarray]:
    if place.raw:
        raise DataError(f"{place.bin} holds ids alone", do="convert it: hexareme convert source=nanogpt target=corpus", file=place.bin)
    index = TokenFile(place.prefix).index
    for first in range(0, index.num_documents, _CHUNK):
        sequences = index.document_indices[first : first + _CHUNK + 1]
        inside = np.minimum(sequences, len(index.pointers) - 1) if len(index.pointers) else sequences
        bytes_D = np.where(sequences < len(index.pointers), index.pointers[inside], index.bin_size) if len(index.pointers) else sequences
        yield np.diff(bytes_D) // index.dtype.itemsize


def _of_task(folder: Path, description: CorpusDescription, part: str) -> dict[str, Any]:
    """Rows and learned tokens of packed examples, sizes of classes, learned tokens of pairs."""
    entry = description.parts[part]
    facts: dict[str, Any] = {}
    arrays = {name: open_array(array_path(folder, part, name), each) for name, each in entry.arrays.items() if name in TASK_ARRAYS}
    if "mask" in arrays:
        mask = arrays["mask"]
        facts["learned_tokens"] = sum(int(mask.read(at, min(1 << 22, len(mask) - at)).sum()) for at in range(0, len(mask), 1 << 22))
    if "rows" in arrays:
        facts["rows"] = len(arrays["rows"]) - 1
        facts["filled"] = (entry.tokens - entry.documents) / max(1, facts["rows"] * description.task.sequence_length)
    if "labels" in arrays:
        counts = np.bincount(arrays["labels"].read(0, entry.documents), minlength=len(description.task.labels))
        facts["classes"] = [{"label": label, "documents": int(n)} for label, n in zip(description.task.labels, counts, strict=True)]
    return facts


def _of_token_files(path: str) -> dict[str, Any]:
    """Token files without a description: only their structure can be checked."""
    try:
        tokens = open_corpus(path, tick=unwatched)
    except DataError as error:
        if not all(place.bin.is_file() for place in locate(path)):
            raise  # not damaged, not there
        return {"corpus": path, "findings": [str(error)]}
    facts = {"documents": tokens.num_documents, "tokens": tokens.num_tokens, "dtype": tokens.dtype.name, "largest_id": largest_id(path)}
    return {"corpus": path, "parts": {"train": facts | lengths(locate(path))}, "findings": []}


def _samples(path: str) -> list[dict[str, Any]]:
    """The beginnings of a few documents, spread over the training part."""
    tokens, tokenizer = open_corpus(path), load_tokenizer(path)
    origins = RawOrigins(tokens, path)
    found = []
    for number in sorted({tokens.num_documents * place // SAMPLES for place in range(SAMPLES)}):
        file, line = origins.find(number) or (None, None)
        text = tokenizer.decode([int(i) for i in tokens.document(number)[:SAMPLE_TOKENS]])
        found.append({"document": number, "file": file, "line": line, "text": text})
    return found
