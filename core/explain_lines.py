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
    more = f" and {len(spans) - MOST_DOCUMENTS} more" if len(spans) > MOST_DOCUMENTS else ""
    documents = ", ".join(f"{span['document']}" + (f" from its token {span['offset']}" if span["offset"] else "")
                          for span in spans[:MOST_DOCUMENTS])
    pieces = f", cut into pieces of {each['piece_length']}" if each["piece_length"] < sum(span["tokens"] for span in spans) else ""
    rows = [f"  sample {each['sample']}: {each['bin']} from byte {spans[0]['byte']} "
            f"(epoch {each['epoch']}, window {each['window']}{pieces})", f"    documents {documents}{more}"]
    return [*rows, f"    {each['text']!r} ..."] if each["text"] else rows
