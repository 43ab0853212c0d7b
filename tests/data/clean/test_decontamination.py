"""Passages of evaluation sets planted in real text: all are found, nothing else is."""

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hexareme.data.clean.decontamination import AROUND, Decontamination
from hexareme.data.clean.rule import Page, Refused
from hexareme.data.clean.settings import DecontaminationSettings
from hexareme.data.clean.word_hashes import PIECE
from hexareme.data.errors import DataError

from tests.data.clean.planted import unlike_documents


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return unlike_documents(450)


@pytest.fixture(scope="module")
def sets(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four evaluation sets of 25 real documents each: text, JSON lines (gzip, nested), Parquet with lists, a folder."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "plain.txt").write_text("\n\n".join(texts[:25]))
    with gzip.open(folder / "lines.jsonl.gz", "wt") as file:
        for text in texts[25:50]:
            file.write(json.dumps({"id": 7, "question": {"stem": text, "choices": ["yes", "no"]}}) + "\n")
    pyarrow.parquet.write_table(pa.table({"prompt": ["short"] * 25, "answers": [["none", text] for text in texts[50:75]]}),
                                folder / "rows.parquet")
    (folder / "many").mkdir()
    for number, text in enumerate(texts[75:100]):
        (folder / "many" / f"{number}.txt").write_text(text)
    return [str(folder / name) for name in ("plain.txt", "lines.jsonl.gz", "rows.parquet", "many")]


def words_of(text: str) -> list[str]:
    """Independent of what is tested: how the standard library splits ASCII words."""
    return "".join(character if character.isalnum() else " " for character in text.lower()).split()


def grams(texts: list[str], n: int) -> set[tuple[str, ...]]:
    return {gram for text in texts for gram in zip(*(words_of(text)[i:] for i in range(n)), strict=False)}


def test_exactly_the_documents_with_a_common_passage_go(texts: list[str], sets: list[str]):
    rule = Decontamination(DecontaminationSettings(files=tuple(sets)))
    evaluated, chance = grams(texts[:100], 13), random.Random(3)
    pages = []
    for number, text in enumerate(texts[100:]):
        words = text.split()
        place = chance.randrange(len(words))
        passage = words_of(texts[number % 100])[40:40 + 11 + number % 4]  # 11 and 12 words are no passage
        styled = ", ".join(passage).upper() if number % 2 else " -- ".join(passage)
        pages.append(" ".join([*words[:place], "(", styled, ")", *words[place:]]) if number % 3 else text)
    refused = [isinstance(rule(Page(page)), Refused) for page in pages]
    truth = [not evaluated.isdisjoint(grams([page], 13)) for page in pages]
    assert refused == truth
    assert 50 < sum(truth) < 200


def test_the_detail_names_the_set_and_the_passage(texts: list[str], sets: list[str]):
    rule = Decontamination(DecontaminationSettings(files=tuple(sets)))
    for number, name in ((3, "plain.txt"), (30, "lines.jsonl.gz"), (60, "rows.parquet"), (90, "many")):
        refused = rule(Page(f"Something else. {texts[number][:900]}"))
        assert isinstance(refused, Refused)
        passage = refused.detail.removeprefix(f"{name}: ")
        assert len(words_of(passage)) == 13
        assert tuple(words_of(passage)) in grams([texts[number]], 13)


def test_only_the_chosen_fields_count(texts: list[str], tmp_path: Path):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"question": texts[0], "source": texts[1]}))
    rule = Decontamination(DecontaminationSettings(files=(str(path),), text_keys=("question",)))
    assert isinstance(rule(Page(texts[0])), Refused)
    assert rule(Page(texts[1])) is texts[1]


def test_a_passage_across_the_pieces_of_a_long_document_is_found(texts: list[str], sets: list[str]):
    rule = Decontamination(DecontaminationSettings(files=tuple(sets)))
    passage = " ".join(words_of(texts[1])[20:33])
    for before in range(PIECE - len(passage) - 9, PIECE + 9, 6):
        assert isinstance(rule(Page(("ab " * PIECE)[:before] + " " + passage + " cd" * 1000)), Refused)


def test_cutting_leaves_what_is_far_from_the_passage(texts: list[str], sets: list[str]):
    rule = Decontamination(DecontaminationSettings(files=tuple(sets), cut=True))
    passage = texts[7][:400]
    before, after = texts[200], texts[201]
    for dotted in ("", "İ" * 30):  # in lower case İ has two characters: places move
        result = rule(Page(f"{dotted}{before}\n{passage}\n{after}"))
        assert isinstance(result, str)
        kept_before = len(os.path.commonprefix([result, dotted + before]))
        kept_after = len(os.path.commonprefix([result[::-1], after[::-1]]))
        assert result == (dotted + before)[:kept_before] + "\n\n" + after[len(after) - kept_after:]
        for cut in (len(dotted + before) - kept_before, len(after) - kept_after):
            assert AROUND - 30 < cut < AROUND + 30  # the passage begins and ends within words that others follow
        assert not grams([result], 13) & grams([texts[7]], 13)
    assert isinstance(rule(Page(passage)), Refused), "nothing stays"
    assert isinstance(rule(Page("\n".join([texts[200], passage] * 12))), Refused), "too many pieces"


def test_scripts_without_spaces(tmp_path: Path):
    chance = random.Random(1)
    chinese = ["".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(60)) for _ in range(3)]
    (tmp_path / "set.txt").write_text(chinese[0])
    rule = Decontamination(DecontaminationSettings(files=(str(tmp_path / "set.txt"),)))
    refused = rule(Page(chinese[1] + chinese[0][20:33] + chinese[2]))
    assert isinstance(refused, Refused) and refused.detail == f"set.txt: {chinese[0][20:33]}"
    assert rule(Page(chinese[1] + chinese[0][20:32] + chinese[2])) == chinese[1] + chinese[0][20:32] + chinese[2]


def test_sets_that_cannot_serve(tmp_path: Path):
    def refuse(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            Decontamination(DecontaminationSettings(files=(str(tmp_path / name),)))
        assert caught.value.do
        return str(caught.value)

    assert "no passage of 13 words" in refuse("short.txt", b"Paris")
    assert "broken.jsonl:2" in refuse("broken.jsonl", b'{"a": "b"}\n{"a": \n')
    assert "invalid_utf8" in refuse("latin.txt", b"\xe9" * 40)
    assert "Parquet" in refuse("damaged.parquet", b"PAR1 no")
    with pytest.raises(DataError):
        Decontamination(DecontaminationSettings(files=(str(tmp_path / "missing.txt"),)))
