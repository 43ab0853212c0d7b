"""Acceptance 5 through the real command: planted duplicates and passages of an evaluation set leave, everything else is in the corpus."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.token_file import open_corpus
from hexareme.launcher.commands import prepare as command

from tests.data.clean.planted import Planted, planted_corpus, unlike_documents


def passages(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return set(zip(*(words[i:] for i in range(13)), strict=False))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """400 for the corpus, then 20 that share no passage with them."""
    found = unlike_documents(500)
    known = set().union(*map(passages, found[:400]))
    return [*found[:400], *[text for text in found[400:] if known.isdisjoint(passages(text))][:20]]


@pytest.fixture(scope="module")
def planted(texts: list[str]) -> Planted:
    return planted_corpus(texts[:400], similarity=0.9)


@pytest.fixture(scope="module")
def inputs(texts: list[str], planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the documents in each of two files; then 20 new ones around a passage of an evaluation set."""
    folder = tmp_path_factory.mktemp("inputs")
    half = len(planted.texts) // 2
    contaminated = [f"{planted.texts[number][:600]} Contaminated {number}: {text[:500]}" for number, text in enumerate(texts[400:])]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in planted.texts[:half]))
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in [*planted.texts[half:], *contaminated])
    (folder / "evaluation.txt").write_text("\n".join(texts[400:]))
    return folder


@pytest.fixture(scope="module")
def corpus(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker makes of the inputs."""
    folder = tmp_path_factory.mktemp("prepared") / "corpus"
    prepare(inputs, folder, workers=1)
    return folder


def prepare(inputs: Path, corpus: Path, workers: int) -> None:
    sources = f"input=[{inputs / 'a.jsonl'},{inputs / 'b.jsonl.gz'}]"
    assert command.main([sources, f"output={corpus}", "tokenizer.kind=byte_bpe", "tokenizer.vocab_size=300", f"workers={workers}",
                         "clean=deduplicate", "clean.normalize.enabled=false",
                         f"clean.decontamination.files=[{inputs / 'evaluation.txt'}]"]) == 0


def decoded(corpus: Path) -> list[str]:
    tokenizer = load_tokenizer(corpus / "tokenizer")
    parts = [open_corpus(corpus, part) for part in ("train", "validation")]
    return [tokenizer.decode(part.document(number)[:-1]) for part in parts for number in range(part.num_documents)]


def test_planted_duplicates_and_passages_are_removed(planted: Planted, corpus: Path):
    kept = Counter(decoded(corpus))
    assert not [text for text in kept if "Contaminated" in text], "decontamination finds all 20"

    present, families, repeats, lost = kept.copy(), set(), 0, 0
    for text, family, repeat in zip(planted.texts, planted.families, planted.repeats(), strict=True):
        stays = present[text] > 0
        present[text] -= stays
        repeats += repeat
        lost += repeat and not stays
        assert stays or repeat, "no false removal of 440"
        families.add(family)
    assert not +present, "nothing else is in the corpus"
    assert lost >= 0.98 * repeats == pytest.approx(0.98 * 240)

    report = json.loads((corpus / "clean_report.json").read_text())
    rows = {row["rule"]: row for row in report["rules"]}
    count = len(planted.texts) + 20
    assert (report["documents_in"], report["documents_out"]) == (count, kept.total())
    assert rows["decontamination"]["documents_removed"] == 20
    assert rows["exact_duplicates"]["documents_removed"] == len(planted.texts) - len(set(planted.texts))
    assert rows["near_duplicates"]["documents_removed"] == count - 20 - (len(planted.texts) - len(set(planted.texts))) - kept.total()
    assert report["bytes_out"] == sum(len(text.encode()) * times for text, times in kept.items())


def test_any_number_of_workers_gives_the_same_corpus(inputs: Path, corpus: Path, tmp_path: Path):
    names = ["train.bin", "train.idx", "validation.bin", "validation.idx", "clean_report.json"]
    prepare(inputs, tmp_path / "corpus", workers=3)
    assert all((corpus / name).read_bytes() == (tmp_path / "corpus" / name).read_bytes() for name in names)
