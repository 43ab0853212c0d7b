"""From any place on, exactly the rest: the same chunks, whatever the format and the compression."""

import random
from pathlib import Path

import pytest
from hexareme.data.sources.chunk import CHUNK
from hexareme.data.sources.read import read_chunks

from tests.data.sources.made import (
    json_lines,
    page,
    real_texts,
    write_arrow,
    write_compressed,
    write_csv,
    write_parquet,
    write_warc,
    write_wet,
    write_wikipedia,
)
from tests.data.sources.reading import sources_of

SMALL = 20_000  # bytes of a chunk, so that each file has many


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, list[Path]]:
    """By format, with more than one file where compressions differ."""
    folder = tmp_path_factory.mktemp("places")
    texts = real_texts(300)
    lines = json_lines(texts)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.tsv").write_bytes(b"text\n" + b"".join(text.replace("\n", " ").replace("\t", " ").encode() + b"\n" for text in texts))
    (folder / "small").mkdir()
    for i, text in enumerate(texts[:60]):
        (folder / "small" / f"{i:03}.txt").write_text(text if i % 9 else "")
    (folder / "paragraphs.txt").write_text("\n \n".join(text.replace("\n\n", "\n") for text in texts))
    pages = [page(f"Title {i}", text, redirect="X" if i % 11 == 10 else "") for i, text in enumerate(texts)]
    html = [(f"http://a.example/{i}", "200", f"<html>{text}</html>".encode(), "text/html") for i, text in enumerate(texts)]
    return {
        "lines": [folder / "a.jsonl", *write_compressed(folder, "b.jsonl", lines)],
        "parquet": [write_parquet(folder / "a.parquet", texts)],
        "arrow": [write_arrow(folder / "a.arrow", texts, stream=True), write_arrow(folder / "b.arrow", texts, stream=False)],
        "csv": [write_csv(folder / "a.csv", texts)],
        "tsv": [folder / "a.tsv"],
        "warc": [write_warc(folder / "a.warc.gz", html), write_warc(folder / "a.warc", html[:100], gzip=False)],
        "wet": [write_wet(folder / "a.wet.gz", texts), write_wet(folder / "a.wet", texts[:100], gzip=False)],
        "wikipedia": [write_wikipedia(folder / "a.xml.bz2", pages)],
        "texts": [folder / "small", folder / "paragraphs.txt"],
        "paragraphs": [folder / "paragraphs.txt"],
    }


KINDS = ("lines", "parquet", "arrow", "csv", "tsv", "warc", "wet", "wikipedia", "texts", "paragraphs")


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_from_any_place(files, kind):
    forced = {"format": "paragraphs"} if kind == "paragraphs" else {}
    sources = sources_of(*({"path": str(file), **forced} for file in files[kind]))
    whole = list(read_chunks(sources, text_key="text", size=SMALL))
    assert len(whole) >= 4
    if kind != "texts":  # there a whole file is one record
        assert all(SMALL <= chunk.size < 2.2 * SMALL for chunk in whole[:-1])
    outcomes = [list(chunk.documents()) for chunk in whole]
    places = random.Random(0).sample(range(len(whole)), min(len(whole), 12))
    for at in {*places, len(whole) - 1, len(whole) - 2}:
        rest = list(read_chunks(sources, text_key="text", size=SMALL, start=whole[at].next))
        assert [repr(chunk.blocks) for chunk in rest] == [repr(chunk.blocks) for chunk in whole[at + 1 :]], at
        assert [list(chunk.documents()) for chunk in rest] == outcomes[at + 1 :]
    assert sum(chunk.read for chunk in whole) == sum(source.size for source in sources)


def test_a_place_in_a_file_of_many_members_is_reached_by_a_seek(files):
    for kind in ("warc", "wikipedia"):
        sources = sources_of(files[kind][0])
        places = [chunk.next for chunk in read_chunks(sources, text_key="text", size=SMALL)]
        middle = places[len(places) // 2]
        assert middle.offset - middle.member_offset < 3 * SMALL
        assert sources[0].size * 0.3 < middle.member < sources[0].size * 0.7


def test_real_chunks(tmp_path):
    texts = real_texts(1200)
    sources = sources_of(*write_compressed(tmp_path, "a.jsonl", json_lines(texts)), write_parquet(tmp_path / "a.parquet", texts, 10**6))
    whole = list(read_chunks(sources, text_key="text"))
    assert len(whole) >= 6
    for at, chunk in enumerate(whole[:-1]):
        assert CHUNK <= chunk.size < 2.1 * CHUNK
        rest = read_chunks(sources, text_key="text", start=chunk.next)
        assert next(rest).blocks == whole[at + 1].blocks
