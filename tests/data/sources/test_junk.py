"""Row E8: fifteen kinds of junk. What is good comes out as from the clean input, what is bad is counted by cause, with file and line."""

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hexareme.data.errors import DataError
from hexareme.data.prepare.prepare import prepare
from hexareme.data.prepare.recipe import Recipe

from tests.data.sources.made import json_lines, real_texts
from tests.data.sources.reading import read

TEXTS = real_texts(40, size=600)


@dataclass
class Junk:
    """A bad line (or a whole file), and what it must count as: rejects (cause), skipped ("empty"), or a good text."""

    line: bytes
    cause: str = ""
    good: list[str] = field(default_factory=list)


LINES = {
    "broken JSON": Junk(b'{"text": "broken', "broken_json"),
    "invalid UTF-8": Junk(b'{"text": "\xff\xfe"}', "invalid_utf8"),
    "NUL": Junk(b'{"text": "a\0b"}', "broken_json"),
    "escaped NUL": Junk(b'{"text": "a\\u0000b"}', good=["a\0b"]),
    "lone surrogate": Junk(b'{"text": "\\ud800 x"}', "lone_surrogate"),
    "missing key": Junk(b'{"content": "x"}', "missing_key"),
    "wrong type": Junk(b'{"text": ["x"]}', "wrong_type"),
    "not an object": Junk(b'"text"', "not_an_object"),
    "empty text": Junk(b'{"text": ""}', "empty"),
    "blank line": Junk(b"  \r", "empty"),
    "10^6 deep": Junk(b'{"text": ' + b"[" * 10**6, "broken_json"),
    "10^6 deep and closed": Junk(b'{"text": ' + b"[" * 10**6 + b"]" * 10**6 + b"}", "broken_json"),
    "binary": Junk(bytes(i for i in range(256) if i != 10), "invalid_utf8"),
    "huge number": Junk(b'{"text": ' + b"9" * 10_000 + b"}", "broken_json"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_costs_only_itself(tmp_path, name):
    junk = LINES[name]
    lines = json_lines(TEXTS).splitlines()
    lines[7:7] = [junk.line]
    lines.append(junk.line)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    result = read(tmp_path / "a.jsonl")
    assert result.texts == [*TEXTS[:7], *junk.good, *TEXTS[7:], *junk.good]
    assert result.records == len(TEXTS) + 2
    if junk.cause == "empty":
        assert result.skipped == {"empty": 2}
        assert result.causes == {}
    else:
        assert [(each.line, each.cause) for each in result.rejects] == ([(8, junk.cause), (42, junk.cause)] if junk.cause else [])


FRAMES = {
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "no final newline": lambda data: data.removesuffix(b"\n"),
    "0-byte file beside it": lambda data: data,
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_frames_the_lines_changes_nothing(tmp_path, name):
    (tmp_path / "a.jsonl").write_bytes(FRAMES[name](json_lines(TEXTS)))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "empty.jsonl.gz").write_bytes(b"")
    result = read(tmp_path)
    assert result.texts == TEXTS
    assert result.records == len(TEXTS)


def test_truncated_gzip_names_the_file(tmp_path):
    data = gzip.compress(json_lines(TEXTS))
    for length in (1, 12, len(data) // 2, len(data) - 9, len(data) - 1):
        (tmp_path / "a.jsonl.gz").write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged or truncated") as caught:
            read(tmp_path)
        assert caught.value.file == str(tmp_path / "a.jsonl.gz")


def test_the_corpus_of_the_good_lines(tmp_path):
    """Through the workers: the same bytes, exact counts, every reject with its place."""
    clean, dirty = tmp_path / "clean", tmp_path / "dirty"
    for folder in (clean, dirty):
        folder.mkdir()
    bad = [junk for junk in LINES.values() if not junk.good]
    lines = json_lines(TEXTS).splitlines()
    (clean / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    mixed = b"\r\n".join(line for pair in zip(lines, [junk.line for junk in bad] + [b""] * len(lines), strict=False) for line in pair)
    (dirty / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + mixed)
    (dirty / "b.jsonl").write_bytes(b"")
    recipe = Recipe(tokenizer_kind="byte_bpe", vocab_size=300, held_out=0.2, reject_limit=0.5)
    one, other = (prepare([str(folder)], tmp_path / f"{folder.name}_corpus", recipe, workers=2) for folder in (clean, dirty))
    for name in ("train.bin", "train.idx", "validation.bin", "validation.idx"):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    causes = [(2 * i + 2, junk.cause) for i, junk in enumerate(bad) if junk.cause != "empty"]
    rejects = [json.loads(line) for line in (other.folder / "rejects.jsonl").read_text().splitlines()]
    assert rejects == [{"file": str(dirty / "a.jsonl"), "line": line, "cause": cause} for line, cause in causes]
    assert (other.tally.documents, other.tally.rejected, other.tally.records) == (len(TEXTS), len(causes), 2 * len(TEXTS) - 1)
    assert other.tally.empty == len(TEXTS) - 1 - len(causes)  # no line follows the last line feed


LONG = """
import json, re, sys
from hexareme.data.sources.find import find_sources
from hexareme.data.sources.read import read_chunks
sizes = [len(each.text) for chunk in read_chunks(find_sources([sys.argv[1]]).sources, text_key="text") for each in chunk.documents()]
status = open("/proc/self/status").read()  # what getrusage calls a peak begins with the memory of whoever started the process
print(json.dumps([sizes, int(re.search(r"VmHWM:\\s*([0-9]+) kB", status)[1])]))
"""


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_document_of_100_mb_in_bounded_memory(tmp_path, name):
    text = "word \n" * 17_000_000
    short = json.dumps({"text": "short"}) + "\n"
    (tmp_path / name).write_text(text if name.endswith(".txt") else short + json.dumps({"text": text}) + "\n" + short)
    done = subprocess.run([sys.executable, "-c", LONG, str(tmp_path / name)], capture_output=True, check=True, timeout=250)
    sizes, peak_kib = json.loads(done.stdout)
    assert sizes == ([len(text)] if name.endswith(".txt") else [5, len(text), 5])
    assert peak_kib * 1024 < 1e9


def test_a_record_that_is_too_long_to_keep(tmp_path, monkeypatch):
    """Not a 256 MiB one, but the same path."""
    from hexareme.data.sources import line_borders
    from hexareme.data.sources import read as module

    monkeypatch.setattr(module, "line_pieces", partial(line_borders.line_pieces, most=5000))
    lines = json_lines(TEXTS).splitlines()
    lines[9:9] = [b'{"text": "' + b"x" * 3_000_000 + b'"}']
    file = Path(tmp_path / "a.jsonl")
    file.write_bytes(b"\n".join(lines) + b"\n")
    result = read(file)
    assert result.texts == TEXTS
    assert [(each.line, each.cause) for each in result.rejects] == [(10, "too_long")]
