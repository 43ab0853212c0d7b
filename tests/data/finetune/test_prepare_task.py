"""prepare task=...: the same bytes for any number of workers, every example whole and where it belongs, every bad record named."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hexareme.data.errors import DataError
from hexareme.data.finetune.packed import open_packed
from hexareme.data.finetune.prepare import prepare_task
from hexareme.data.finetune.sets import ClassifiedSet, PairSet
from hexareme.data.finetune.settings import TaskRecipe
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.token_file import open_corpus

from .conftest import conversations, source_text, write_lines
from .test_template import PLAIN_CHATML, theirs

LENGTH = 256


@pytest.fixture
def recipe(chat_tokenizer):
    return TaskRecipe(kind="chat", tokenizer_kind="huggingface", tokenizer_path=str(chat_tokenizer), template="chatml",
                      sequence_length=LENGTH, held_out=0.05)


def changed(recipe: TaskRecipe, **changes) -> TaskRecipe:
    return TaskRecipe(**{**{name: getattr(recipe, name) for name in recipe.__dataclass_fields__}, **changes})


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "stamp" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def examples(folder, part):
    """Ids of every example of a packed corpus, and their masks."""
    packed = open_packed(folder, part)
    starts = packed.tokens.document_starts
    return [(packed.tokens.document(n).tolist(), packed.mask.read(int(starts[n]), int(starts[n + 1] - starts[n])).tolist())
            for n in range(packed.tokens.num_documents)]


def test_every_conversation_is_there_once_with_the_ids_of_transformers(recipe, chat_tokenizer, tmp_path):
    records, length = [*conversations(300), *conversations(2, median=1500)], 1024
    recipe = changed(recipe, sequence_length=length)
    made = prepare_task([str(write_lines(tmp_path / "a.jsonl", records))], tmp_path / "one", recipe, workers=1)
    reference = theirs(chat_tokenizer, (tmp_path / "one" / "tokenizer" / "chat_template.jinja").read_text())
    expected, dropped = [], 0
    for record in records:
        found = reference.apply_chat_template(record["messages"], return_dict=True, return_assistant_tokens_mask=True)
        fits = len(found["input_ids"]) <= length + 1
        dropped += not fits
        expected += [(tuple(found["input_ids"]), tuple(found["assistant_masks"]))] if fits else []
    there = [(tuple(ids), tuple(mask)) for part in ("train", "validation") for ids, mask in examples(tmp_path / "one", part)]
    assert Counter(there) == Counter(expected)
    assert dropped and made.fates == {"dropped": dropped} and made.tally.documents == len(expected)
    assert made.filled["train"] >= 0.95 and (tmp_path / "one" / "rejects.jsonl").read_bytes() == b""
    assert prepare_task([str(tmp_path / "a.jsonl")], tmp_path / "one", recipe, workers=1).reused


def test_any_number_of_workers_and_a_table_write_the_same(recipe, tmp_path):
    records, recipe = conversations(250, median=120), changed(recipe, sequence_length=8192)
    file = write_lines(tmp_path / "a.jsonl", records)
    assert file.stat().st_size > 1.2 * 2**20  # more than one chunk
    (tmp_path / "3" / ".preparing").mkdir(parents=True)
    (tmp_path / "3" / ".preparing" / "train.mask.bin").write_bytes(b"remains of a killed prepare")
    made = [prepare_task([str(file)], tmp_path / str(workers), recipe, workers=workers).folder for workers in (1, 3)]
    assert contents(made[0]) == contents(made[1])
    (made[0] / "train.rows.bin").write_bytes(b"")
    with pytest.raises(DataError, match="train.rows.bin is missing or has another size"):
        prepare_task([str(file)], made[0], recipe, workers=1)
    pq.write_table(pa.Table.from_pylist(records[:40]), tmp_path / "b.parquet")
    write_lines(tmp_path / "b.jsonl", records[:40])
    table, lines = (prepare_task([str(tmp_path / f"b.{kind}")], tmp_path / kind, recipe, workers=1).folder for kind in ("parquet", "jsonl"))
    told = {"prepare.json", "corpus.json", "sources.jsonl"}  # of the files that were read
    assert {name: data for name, data in contents(table).items() if name not in told} == {
        name: data for name, data in contents(lines).items() if name not in told}


BAD = {"broken_json": b"{", "not_an_object": b"[1]", "missing_key": b'{"text": "x"}', "wrong_type": b'{"messages": 1}',
       "no_answer": b'{"messages": [{"role": "user", "content": "x"}]}', "invalid_utf8": b'{"messages": "\xff"}',
       "lone_surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]}'}


def test_every_bad_record_is_named(recipe, tmp_path):
    good = [json.dumps(record).encode() for record in conversations(40)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*good, *BAD.values(), b"", b"  "]) + b"\n")
    made = prepare_task([str(tmp_path / "a.jsonl")], tmp_path / "out", changed(recipe, reject_limit=0.5), workers=1)
    assert made.tally.causes == dict.fromkeys(BAD, 1) and made.tally.empty == 2
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["line"], reject["cause"]) for reject in rejects] == list(enumerate(BAD, len(good) + 1))
    with pytest.raises(DataError, match="7 of 49 records are bad") as caught:
        prepare_task([str(tmp_path / "a.jsonl")], tmp_path / "none", recipe, workers=1)
    assert "rejects.jsonl" in caught.value.do and [path.name for path in (tmp_path / "none").iterdir()] == ["rejects.jsonl"]


def test_too_long_stops_where_asked_and_names_the_line(recipe, tmp_path):
    records = [*conversations(5, median=2), {"prompt": "x " * 2000, "completion": "y"}]
    file = str(write_lines(tmp_path / "a.jsonl", records))
    with pytest.raises(DataError, match="a.jsonl:6 makes an example longer than task.sequence_length=256"):
        prepare_task([file], tmp_path / "out", changed(recipe, overlong="error"), workers=1)
    made = prepare_task([file], tmp_path / "cut", changed(recipe, overlong="cut_prompt_start", held_out=0.0), workers=1)
    assert made.fates == {"cut": 1} and made.tally.documents == 6
    longest = max((ids for ids, _ in examples(made.folder, "train")), key=len)
    assert len(longest) == LENGTH + 1 and load_tokenizer(made.folder).decode(longest).endswith("assistant\ny\n")


def test_classes_are_held_out_each_for_itself(recipe, tmp_path):
    words = source_text().split()
    sizes = {"many": 400, "few": 20, 7: 2, True: 1}
    records = [{"text": f"{label} {n} {words[n]}", "label": label} for label, size in sizes.items() for n in range(size)]
    recipe = changed(recipe, kind="classification", held_out=0.1)
    prepare_task([str(write_lines(tmp_path / "a.jsonl", records))], tmp_path / "out", recipe, workers=2)
    train, held = ClassifiedSet(tmp_path / "out"), ClassifiedSet(tmp_path / "out", "validation")
    assert train.labels == (True, 7, "few", "many") and isinstance(train.labels[0], bool)
    counts = [Counter(each.labels[each.example(n).class_id] for n in range(len(each))) for each in (train, held)]
    assert counts == [{"many": 360, "few": 18, 7: 1, True: 1}, {"many": 40, "few": 2, 7: 1}]
    tokenizer, seen = load_tokenizer(tmp_path / "out"), set()
    for each in (train, held):
        for n in range(len(each)):
            found = each.example(n)
            text = tokenizer.decode(found.ids[:-1].tolist())
            assert text.split()[0] == str(each.labels[found.class_id]) and found.ids[-1] == tokenizer.end_of_document
            seen.add(text)
    assert seen == {record["text"] for record in records}
    with pytest.raises(IndexError):
        train.example(len(train))


def test_pairs_keep_prompt_and_answers(recipe, tmp_path):
    records = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n} indeed"} for n in range(60)]
    made = prepare_task([str(write_lines(tmp_path / "a.jsonl", records))], tmp_path / "out", changed(recipe, kind="preference"), workers=1)
    tokenizer, seen = load_tokenizer(made.folder), []
    for part in ("train", "validation"):
        pairs = PairSet(made.folder, part)
        for n in range(len(pairs)):
            pair = pairs.pair(n)
            sides = [(pair.chosen_ids, pair.chosen_mask), (pair.rejected_ids, pair.rejected_mask)]
            prompts = [tokenizer.decode(ids[: int(mask.argmax())].tolist()) for ids, mask in sides]
            answers = [tokenizer.decode(ids[mask == 1].tolist()) for ids, mask in sides]
            assert prompts[0] == prompts[1]
            seen.append((prompts[0].split("\n")[1], *answers))
    assert sorted(seen) == sorted((record["prompt"], record["chosen"], record["rejected"]) for record in records)


def test_special_tokens_are_added_and_found(recipe, chat_tokenizer, tmp_path):
    file = str(write_lines(tmp_path / "a.jsonl", conversations(30)))
    (tmp_path / "own.jinja").write_text(PLAIN_CHATML.replace("<|im_start|>", "<|turn|>"))
    chosen = changed(recipe, template=str(tmp_path / "own.jinja"), special_tokens=("<|turn|>",))
    made = prepare_task([file], tmp_path / "out", chosen, workers=1)
    turn = load_tokenizer(made.folder).special_tokens["<|turn|>"]
    assert turn == load_tokenizer(chat_tokenizer).vocab_size and made.description.parts["train"].largest_id == turn
    assert all(ids[0] == turn for ids, _ in examples(made.folder, "train"))
    again = prepare_task([file], tmp_path / "again", changed(chosen, template="tokenizer", tokenizer_path=str(made.folder)), workers=1)
    assert np.array_equal(open_corpus(again.folder).read(0, 50), open_corpus(made.folder).read(0, 50))  # a corpus is a tokenizer, too
