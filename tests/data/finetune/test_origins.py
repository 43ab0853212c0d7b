"""Each example of a fine-tuning corpus names the raw file and line of its record; the raw files are read here by other means."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.raw_origins import RawOrigins
from hexareme.data.tokens.token_file import open_corpus

from .runs import TaskRun, task_files


def raw_record(file: str, line: int) -> dict[str, Any]:
    path = Path(file)
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()[line - 1]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(data.split(b"\n")[line - 1])


def texts(record: dict[str, Any], number: int) -> list[str]:
    """What must be in an example; `number`: of the examples of this record."""
    if "messages" in record:
        return [message["content"] for message in record["messages"]]
    return [record["text"]] if "text" in record else [record["prompt"], record[("chosen", "rejected")[number]]]


@pytest.mark.parametrize(("kind", "each"), [("chat", 1), ("classification", 1), ("preference", 2)])
def test_every_example_names_its_record(chat_tokenizer, tmp_path, kind, each):
    recipe = {"kind": kind, "tokenizer_kind": "huggingface", "tokenizer_path": str(chat_tokenizer), "template": "chatml",
              "sequence_length": 256, "held_out": 0.1, "reject_limit": 0.01}
    run = TaskRun(task_files(tmp_path, kind), tmp_path / "corpus", recipe, workers=2)
    made = run.here()
    tokenizer, found = load_tokenizer(run.output), Counter()
    for part in ("train", "validation"):
        tokens = open_corpus(run.output, part)
        origins = RawOrigins(tokens, run.output, part)
        for document in range(tokens.num_documents):
            origin = origins.find(document)
            assert origin
            decoded = tokenizer.decode(tokens.document(document).tolist())
            assert all(text in decoded for text in texts(raw_record(*origin), found[origin]))
            found[origin] += 1
    assert len(found) == made.tally.documents > 300 and set(found.values()) == {each}
    assert {Path(file).name for file, _ in found} == {Path(file).name for file in run.inputs}
