"""Records that workers read from the file themselves: the same as those that were sent to them, and a file that changes is an error."""

import gzip
import json
import pickle

import pytest
from hexareme.data.errors import DataError
from hexareme.data.prepare.prepare import prepare
from hexareme.data.prepare.recipe import Recipe
from hexareme.data.sources.find import find_sources
from hexareme.data.sources.read import read_chunks

BOM = b"\xef\xbb\xbf"


def outcomes(path, **words):
    """What workers find, in chunks that have travelled to them."""
    chunks = [pickle.loads(pickle.dumps(chunk)) for chunk in read_chunks(find_sources([str(path)]).sources, text_key="text", **words)]
    found = [each for chunk in chunks for each in chunk.documents()]
    return [(type(each).__name__, each.line, getattr(each, "text", getattr(each, "cause", ""))) for each in found]


@pytest.mark.parametrize(("name", "start"), [("a.jsonl", BOM), ("a.jsonl", b""), ("a.txt", BOM), ("a.csv", BOM)])
def test_slices_are_what_is_sent_elsewhere(name, start, tmp_path):
    texts = [f"text {number} \u00e9 " * (number % 90 + 1) for number in range(400)]
    if name.endswith("jsonl"):
        lines = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
        lines[7:7] = [b"", b"{broken", b'{"text": 3}']
    else:
        lines = [b"text", *(text.strip().encode() for text in texts)]
    content = start + b"\n".join(lines)
    assert len(content) > 1 << 17
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))  # what was decompressed here is always sent
    for size in (1, 30_000, 1 << 20):
        found = outcomes(tmp_path / name, size=size)
        assert found == outcomes(tmp_path / f"{name}.gz", size=size)
        assert len(found) == {"a.jsonl": 403, "a.csv": 400}.get(name, 1) and not found[0][2].startswith("\ufeff")


def test_a_chunk_of_a_large_file_is_small_where_it_travels(tmp_path):
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": "word " * 1000}) + "\n") * 300)
    (chunk, *_) = read_chunks(find_sources([str(tmp_path / "a.jsonl")]).sources, text_key="text")
    assert chunk.size >= 1 << 20 and len(pickle.dumps(chunk)) < 2000


def test_a_file_that_becomes_shorter_meanwhile(tmp_path, monkeypatch):
    """The error of the worker reaches the user as it is: with its exit code and its way out."""
    from hexareme.data.prepare import passes

    file = tmp_path / "a.jsonl"
    file.write_text((json.dumps({"text": "word " * 1000}) + "\n") * 300)
    read = passes.weight

    def cut_short(item):
        with file.open("r+") as stream:
            stream.truncate(100)
        return read(item)

    monkeypatch.setattr(passes, "weight", cut_short)
    recipe = Recipe(tokenizer_kind="byte_bpe", vocab_size=300, held_out=0.0)
    with pytest.raises(DataError, match=r"a\.jsonl has become shorter") as caught:
        prepare([str(file)], tmp_path / "out", recipe, workers=1)
    assert caught.value.do == "run again when nobody writes to it" and caught.value.file == str(file)
