"""The same documents, in the same order, from every format; and a clear word where there are none."""

import gzip
import json
import sys
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hexareme.data.errors import DataError
from hexareme.data.sources.chunk import CHUNK
from hexareme.data.sources.find import PYTHON_STDLIB, find_sources
from hexareme.data.sources.read import read_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.sources.reading import read

TEXTS = ["one", "two\nlines\r\n", "\u2581 é 😀", "\0", " ", "x" * 5000, "the last, without newline"]


def json_lines(texts: list[str]) -> bytes:
    return "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)).encode()


def test_every_format_holds_the_same_documents(tmp_path):
    lines = json_lines(TEXTS)
    files = {
        "a.jsonl": lines,
        "a.json": lines + b"\n",
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.zst": zstandard.compress(lines),
        "two_frames.jsonl.zst": zstandard.compress(lines[:100]) + zstandard.compress(lines[100:]),
        "two_members.jsonl.gz": gzip.compress(lines[:100]) + gzip.compress(lines[100:]),
        "bom.jsonl": b"\xef\xbb\xbf" + lines,
        "crlf.jsonl": lines.replace(b"\n", b"\r\n"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name).texts == TEXTS, name
    for row_group in (2, 100):
        pq.write_table(pa.table({"other": range(len(TEXTS)), "text": TEXTS}), tmp_path / "a.parquet", row_group_size=row_group)
        assert read(tmp_path / "a.parquet").texts == TEXTS
    folder = tmp_path / "files"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        data = text.encode()
        (folder / f"{i}.txt").write_bytes(data if i % 2 else b"\xef\xbb\xbf" + data)
    (folder / "1.txt").rename(folder / "1.md")
    (folder / "3.txt.gz").write_bytes(gzip.compress((folder / "3.txt").read_bytes()))
    (folder / "3.txt").unlink()
    assert read(folder).texts == TEXTS
    assert read(f"{folder}/*").texts == TEXTS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=20))
def test_json_lines_hold_any_text(tmp_path_factory, texts):
    file = tmp_path_factory.mktemp("any") / "a.jsonl"
    file.write_bytes("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts).encode() + b"\n")
    assert read(file).texts == texts


def test_chunks_are_a_mebibyte_and_count_the_bytes_of_the_file(tmp_path):
    texts = [f"{i} " * 200 for i in range(5000)] + ["y" * 3 * CHUNK, "z"]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(texts), 1))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(json_lines(texts)))
    pq.write_table(pa.table({"text": texts}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("small")
    sources = find_sources([str(tmp_path)]).sources
    chunks = list(read_chunks(sources, text_key="text"))
    assert sum(chunk.read for chunk in chunks) == pytest.approx(sum(source.size for source in sources), rel=0.01)
    for chunk in chunks[:-1]:
        size = sum(len(outcome.text) + 30 for outcome in chunk.documents())
        assert 0.9 * CHUNK < size < 2.1 * CHUNK or size > 3 * CHUNK
    assert read(tmp_path).texts == [*texts * 3, "small"]


def test_bad_records_are_counted_by_cause_with_their_line(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "broken',
        b'{"text": "\xff"}',
        b"[1]",
        b'{"txt": "other key"}',
        b'{"text": 3}',
        b'{"text": null}',
        b'{"text": "\\ud800"}',
        b"[" * 1_000_000,
        b'{"text": ""}',
        b"",
        b'{"text": "also good"}',
    ]
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    result = read(file)
    assert result.texts == ["good", "also good"]
    causes = ["broken_json", "invalid_utf8", "not_an_object", "missing_key", "wrong_type", "wrong_type", "lone_surrogate", "broken_json"]
    assert [(reject.line, reject.cause) for reject in result.rejects] == list(zip(range(2, 10), causes, strict=True))
    assert {reject.file for reject in result.rejects} == {str(file)}
    assert (result.records, result.skipped) == (12, {"empty": 2})


def test_bad_rows_and_files(tmp_path):
    pq.write_table(pa.table({"text": pa.array(["a", None, ""])}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.txt").write_bytes(b"")
    result = read(tmp_path)
    assert result.texts == ["a"]
    assert [(Path(r.file).name, r.line, r.cause) for r in result.rejects] == [("a.parquet", 2, "missing_key"), ("b.txt", 1, "invalid_utf8")]
    assert result.skipped == {"empty": 2}


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst"])
def test_a_truncated_file_is_an_error(tmp_path, suffix):
    lines = json_lines([f"{i * i} text" for i in range(20_000)])
    data = gzip.compress(lines) if suffix.endswith("gz") else zstandard.compress(lines)
    file = tmp_path / f"a.{suffix}"
    for length in (len(data) - 1, len(data) // 2, 20):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged or truncated"):
            read(file)
    file.write_bytes(b"no such format" * 9)
    with pytest.raises(DataError, match="damaged or truncated"):
        read(file)


def test_parquet_without_the_column(tmp_path):
    pq.write_table(pa.table({"content": ["a"], "number": [1]}), tmp_path / "a.parquet")
    assert read(tmp_path, text_key="content").texts == ["a"]
    with pytest.raises(DataError, match="no column text; its columns are content, number"):
        read(tmp_path)
    with pytest.raises(DataError, match="column number is int64, not text"):
        read(tmp_path, text_key="number")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 junk PAR1")
    with pytest.raises(DataError, match="no Parquet file"):
        read(tmp_path)


def test_missing_inputs_say_so(tmp_path):
    for entry, message in (("nothing.txt", "does not exist"), ("*.txt", "matches no file"), ("", "holds no text file")):
        with pytest.raises(DataError, match=message) as caught:
            find_sources([str(tmp_path / entry)])
        assert caught.value.do


def test_files_are_sorted_each_once_and_hidden_ones_left_out(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", ".git/d.txt", "sub/.e.txt", "odd[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [str(Path(source.path).relative_to(tmp_path)) for source in find_sources([str(tmp_path), f"{tmp_path}/sub/../a.txt"]).sources]
    assert names == ["a.txt", "b.txt", "odd[1].txt", "sub/c.txt"]
    assert read(tmp_path / "b.txt", tmp_path).texts[:2] == ["b.txt", "a.txt"]
    assert read(tmp_path / "**" / "*.txt").texts == names
    assert read(tmp_path / "odd[1].txt").texts == ["odd[1].txt"]
    assert len(find_sources([str(tmp_path)], left_out=tmp_path / "sub").sources) == 3


def test_a_folder_leaves_binaries_out_and_a_name_does_not(tmp_path):
    for name in ("a.md", "plot.PNG", "weights.safetensors", "notes"):
        (tmp_path / name).write_text(name)
    assert read(tmp_path).texts == ["a.md", "notes"]
    assert read(tmp_path / "plot.PNG").texts == ["plot.PNG"]


def test_the_standard_library_is_there():
    files = [source.path for source in find_sources([PYTHON_STDLIB]).sources]
    assert len(files) > 100
    assert files == sorted(files)
    root = Path(sysconfig.get_path("stdlib"))
    relative = {Path(file).relative_to(root).as_posix() for file in files}
    assert {"argparse.py", "json/decoder.py", "asyncio/events.py"} <= relative
    left_out = ("site-packages", "test", "tests", "__pycache__", "lib2to3", "idle_test")
    assert not any(part in left_out for file in relative for part in file.split("/"))
    assert {name for name in sys.stdlib_module_names if f"{name}.py" in relative} >= {"heapq", "shutil", "typing"}
