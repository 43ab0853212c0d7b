"""Each document of a corpus knows its raw file and line: read back there by plain code, text by text."""

import gzip
import json
import os
import sysconfig
from pathlib import Path

import pytest
from hexareme.data.clean.settings import CleanSettings, DuplicateSettings
from hexareme.data.errors import DataError
from hexareme.data.prepare.prepare import NoProgress, Recipe, prepare
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.description import read_description
from hexareme.data.tokens.merge import to_corpus
from hexareme.data.tokens.places import locate
from hexareme.data.tokens.raw_origins import RawOrigins
from hexareme.data.tokens.token_file import open_corpus

from tests.data.prepare.runs import contents

RECIPE = {"tokenizer_kind": "byte_bpe", "vocab_size": 300, "held_out": 0.2, "reject_limit": 0.1}
Place = tuple[str, int]
Raw = dict[Place, str]
STRANGE = os.fsdecode(b"a line\nfeed, caf\xe9.txt")  # no UTF-8


def texts(count: int, *, first: int, size: int = 5000) -> list[str]:
    """Passages of the standard library's source, all different."""
    whole = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    return [f"# {first + i} é\n" + whole[i * 97 % 60_000 :][:size] for i in range(count)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> tuple[list[str], Raw]:
    """Inputs of several kinds, more than one chunk of some, and what lies at each place of them by the libraries of their formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = tmp_path_factory.mktemp("raw")
    lines, table, folder = place / "a.jsonl.gz", place / "b.parquet", place / "folder"
    with gzip.open(lines, "wt") as file:
        for number, text in enumerate(texts(300, first=0)):
            file.write("\n" if number % 9 == 4 else "{broken\n" if number % 50 == 7 else json.dumps({"text": text}) + "\n")
    rows = [None if n == 5 else text for n, text in enumerate(texts(250, first=1000))]
    pq.write_table(pa.table({"text": rows}), table, row_group_size=70)
    folder.mkdir()
    for name, text in zip([*(f"{n:03}.py" for n in range(60)), STRANGE], texts(61, first=2000, size=500), strict=True):
        (folder / name).write_text(text)
    found: Raw = {}
    for number, line in enumerate(gzip.decompress(lines.read_bytes()).split(b"\n"), 1):
        if line.startswith(b'{"'):
            found[str(lines), number] = json.loads(line)["text"]
    found |= {(str(table), row): text for row, text in enumerate(pq.read_table(table)["text"].to_pylist(), 1) if text}
    found |= {(str(folder / name), 1): (folder / name).read_text() for name in os.listdir(folder)}
    return [str(lines), str(table), str(folder)], found


def told(path: Path | str, folder: Path, part: str) -> list[tuple[Place | None, str]]:
    """Of each document what the corpus says it is from, and its text."""
    tokens, tokenizer = open_corpus(path, part), load_tokenizer(folder)
    origins = RawOrigins(tokens, path, part)
    return [(origins.find(n), tokenizer.decode(tokens.document(n)[:-1].tolist())) for n in range(tokens.num_documents)]


def wrong(folder: Path, raw: Raw) -> list[object]:
    """Places of which the corpus says something else than the files, and those that it does not name."""
    found = [each for part in ("train", "validation") for each in told(folder, folder, part)]
    return [place for place, text in found if raw.get(place) != text] + sorted(raw.keys() - dict(found).keys())


@pytest.fixture(scope="module")
def corpus(raw, tmp_path_factory) -> Path:
    return prepare(raw[0], tmp_path_factory.mktemp("made") / "corpus", Recipe(**RECIPE), workers=2).folder


def tokenizer_of(corpus: Path) -> dict[str, object]:
    """No pass for its training."""
    return {"tokenizer_kind": "huggingface", "tokenizer_path": str(corpus / "tokenizer"), "vocab_size": Recipe().vocab_size}


def test_every_document_is_where_it_says(raw, corpus):
    assert wrong(corpus, raw[1]) == []
    assert len((corpus / "sources.jsonl").read_bytes().splitlines()) == 63  # each once, though chunks and parts share them


def test_cleaned_documents_keep_their_place_and_relative_paths_do_not_count(raw, corpus, tmp_path, monkeypatch):
    inputs, found = raw
    monkeypatch.chdir(Path(inputs[0]).parent)
    names = [os.path.relpath(path) for path in inputs]
    twice = tmp_path / "twice.jsonl"
    twice.write_text("".join(json.dumps({"text": text}) + "\n" for text in (found[inputs[1], 1], "only here " * 20)))
    clean = CleanSettings(duplicates=DuplicateSettings(exact=True, near=False))
    recipe = Recipe(**{**RECIPE, **tokenizer_of(corpus)}, clean=clean)
    made = [prepare([*names, str(twice)], tmp_path / f"{workers}", recipe, workers=workers).folder for workers in (1, 3)]
    assert wrong(made[0], {**found, (str(twice), 2): "only here " * 20}) == []
    assert contents(made[0]).items() >= {k: v for k, v in contents(made[1]).items() if k.endswith((".bin", ".jsonl"))}.items()


class Interrupt(Exception):
    """As Ctrl-C would."""


class Stops(NoProgress):
    """Raises at the n-th result."""

    def __init__(self, after: int) -> None:
        self._left = after

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        self._left -= 1
        if not self._left:
            raise Interrupt


def test_an_interrupted_one_goes_on_from_elsewhere(raw, corpus, tmp_path, monkeypatch):
    """Stopped within a file, then within the folder; called again with other spellings of the same paths."""
    recipe, output = Recipe(**{**RECIPE, **tokenizer_of(corpus)}), tmp_path / "on"
    for after, spelled in ((1, os.path.abspath), (2, os.path.relpath)):
        with pytest.raises(Interrupt):
            prepare([spelled(path) for path in raw[0]], output, recipe, workers=1, progress=Stops(after), journal_seconds=0)
    monkeypatch.chdir(tmp_path)
    prepare([os.path.relpath(path) for path in raw[0]], output, recipe, workers=1)
    found, expected = contents(output), contents(corpus)
    # Another tokenizer was given; the bad records are listed as the user spelled their files.
    own = ("prepare.json", "rejects.jsonl", *(name for name in expected if name.endswith(".stamp.json")))
    assert {name for name in expected if name not in own and found[name] != expected[name]} == set()


def test_merged_corpora_keep_what_they_know(raw, corpus, tmp_path):
    """An older corpus between two: of its documents nothing is known."""
    old, merged = tmp_path / "old", tmp_path / "merged"
    other = prepare([raw[0][2]], tmp_path / "other", Recipe(**{**RECIPE, **tokenizer_of(corpus)}), workers=1).folder
    for name, data in contents(other).items():
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_bytes(data)
    described = json.loads((old / "corpus.json").read_text())
    del described["sources"]
    for part in described["parts"].values():
        del part["arrays"]
    (old / "corpus.json").write_text(json.dumps(described))
    to_corpus(f"{corpus}|{old}|{other}", merged)
    for part in ("train", "validation"):
        known = [told(each, other, part) for each in (corpus, old, other)]
        assert {place for place, _ in known[1]} == {None}
        assert told(merged, other, part) == [*known[0], *known[1], *known[2]]
    joined = told(f"{old}|{corpus}", corpus, "train")
    assert joined[0][0] is None and joined[-1] == told(corpus, corpus, "train")[-1]
    to_corpus(f"{old}|{old}", tmp_path / "none")
    assert read_description(tmp_path / "none").sources is None


def test_arrays_are_no_token_files(corpus):
    assert [place.prefix.name for place in locate(f"{corpus}/t*")] == ["train"]


@pytest.mark.parametrize("name", ["train.file.bin", "train.line.bin", "sources.jsonl"])
def test_damage_is_named(corpus, name):
    file, tokens = corpus / name, open_corpus(corpus)
    good = file.read_bytes()
    try:
        for bad in (good[:-1] + b"x", good[:-8]):
            file.write_bytes(bad)
            with pytest.raises(DataError, match=f"{name}"):
                RawOrigins(tokens, corpus)
    finally:
        file.write_bytes(good)
