"""A step's explanation for people. Pure."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

MOST_SAMPLES = 64  # told of one by one
MOST_DOCUMENTS = 6  # of one sample


def step_lines(found: Mapping[str, Any]) -> list[str]:
    """From what `explain_step` returns."""
    layout, size, first = found["layout"], found["size"], found["first_sample"]
    axes = " x ".join(f"{axis} {layout[axis]}" for axis in ("tp", "pp", "cp", "dp"))
    rows = [f"{found['run']}: step {found['step']} is made of {size} samples, {first} to {first + size - 1}",
            f"layout: {layout['ranks']} ranks, {axes}; micro-batches of {found['micro_size']}; {found['sequence_length']} tokens a sample"]
    if found["passed_over"]:
        rows.append(f"before it a rewind passed over samples {first - found['passed_over']} to {first - 1}")
    rows += [f"assumed: {each}" for each in found["assumed"]]
    shown = found["samples"][:MOST_SAMPLES]
    for (data_rank, rank, micro), group in groupby(shown, key=lambda each: (each["data_rank"], each["rank"], each["micro_batch"])):
        rows += [f"data rank {data_rank} (rank {rank}), micro-batch {micro}:"]
        for each in group:
            rows += _sample(each)
    if len(found["samples"]) > len(shown):
        rows.append(f"... and {len(found['samples']) - len(shown)} samples more; output=<file.json> takes all of them")
    return rows


def _sample(each: Mapping[str, Any]) -> list[str]:
    spans: Sequence[Mapping[str, Any]] = each["spans"]
    pieces = f", cut into pieces of {each['piece_length']}" if each["piece_length"] < sum(span["tokens"] for span in spans) else ""
    rows = [f"  sample {each['sample']}: {each['bin']} from byte {spans[0]['byte']} "
            f"(epoch {each['epoch']}, window {each['window']}{pieces})", *_documents(spans)]
    return [*rows, f"    {each['text']!r} ..."] if each["text"] else rows


def _documents(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each document with its raw file and line; one for all of them where nothing knows these."""
    shown = [f"{span['document']}" + (f" from its token {span['offset']}" if span["offset"] else "") for span in spans[:MOST_DOCUMENTS]]
    more = len(spans) - len(shown)
    if not any(span["file"] for span in spans):
        return [f"    documents {', '.join(shown)}" + (f" and {more} more" if more else "")]
    rows = [f"    document {words}: {raw_place(span['file'], span['line'])}" for words, span in zip(shown, spans, strict=False)]
    return [*rows, f"    and {more} documents more"] if more else rows


def raw_place(file: str | None, line: int | None) -> str:
    """A raw file and a line of it; what no terminal can show of a name is escaped."""
    if file is None:
        return "its raw file is not known"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in file) + f":{line}"
