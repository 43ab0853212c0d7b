"""A cleaning that leaves nothing says which rules took what, and leaves its report to read."""

import json
from pathlib import Path

import pytest
from hexareme.data.clean.settings import CleanSettings, LengthSettings, NormalizeSettings
from hexareme.data.errors import DataError
from hexareme.data.prepare.prepare import Recipe, prepare

NOTHING_LEFT = CleanSettings(normalize=NormalizeSettings(enabled=True), length=LengthSettings(enabled=True, least=50))
NAMES = ["clean_report.html", "clean_report.json"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "a.jsonl"
    texts = [*(f"text number {number}" for number in range(7)), " \t ", "\u00a0 \n"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def recipe(clean: CleanSettings) -> Recipe:
    return Recipe(tokenizer_kind="byte_bpe", vocab_size=300, held_out=0.0, clean=clean)


def test_the_rules_that_removed_everything_are_named(source: Path, tmp_path: Path):
    corpus = tmp_path / "corpus"
    with pytest.raises(DataError, match=r"removed all 9 documents: length 7 \(7 too_short\); normalize 2 \(2 nothing_left\)") as caught:
        prepare([str(source)], corpus, recipe(NOTHING_LEFT), workers=1)
    assert caught.value.exit_code == 3
    assert caught.value.file == str(corpus / NAMES[0])
    assert sorted(path.name for path in corpus.iterdir()) == NAMES
    report = json.loads((corpus / NAMES[1]).read_text())
    assert (report["documents_in"], report["documents_out"]) == (9, 0)
    # the folder is still free for the next attempt, whose corpus has its own report or none
    prepare([str(source)], corpus, recipe(CleanSettings()), workers=1)
    assert not [name for name in NAMES if (corpus / name).exists() and json.loads((corpus / NAMES[1]).read_text()) == report]


def test_a_corpus_that_stays_keeps_its_own_report(source: Path, tmp_path: Path):
    corpus = tmp_path / "corpus"
    prepare([str(source)], corpus, recipe(CleanSettings(normalize=NormalizeSettings(enabled=True))), workers=1)
    before = {path.name: path.read_bytes() for path in corpus.iterdir() if path.is_file()}
    assert set(NAMES) < set(before)
    with pytest.raises(DataError, match="removed all 9 documents") as caught:
        prepare([str(source)], corpus, recipe(NOTHING_LEFT), workers=1, overwrite=True)
    assert not caught.value.file
    assert {path.name: path.read_bytes() for path in corpus.iterdir() if path.is_file()} == before
