"""Packed rows as samples: every example once an epoch and whole, and no damaged byte beside the tokens goes unseen."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.finetune.packed import PackedSet, PackedValidationSet, open_packed
from hexareme.data.finetune.prepare import prepare_task
from hexareme.data.finetune.preview import pieces, previews
from hexareme.data.finetune.sets import ClassifiedSet
from hexareme.data.finetune.settings import TaskRecipe
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.arrays import ArrayWriter, MappedArray, open_array

from .conftest import conversations, write_lines

S = 192


@pytest.fixture(scope="module")
def folder(chat_tokenizer, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    file = write_lines(place / "a.jsonl", conversations(150, median=6))
    recipe = TaskRecipe(kind="chat", tokenizer_kind="huggingface", tokenizer_path=str(chat_tokenizer), template="chatml", sequence_length=S,
                        held_out=0.1)
    return prepare_task([str(file)], place / "corpus", recipe, workers=1).folder


def unpacked(sample) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(inputs, targets, loss weights) of each example of a row; padding must have no loss and is left out."""
    found = []
    for number in range(int(sample.documents_S.max()) + 1):
        here = sample.documents_S == number
        assert sample.positions_S[here].tolist() == list(range(int(here.sum())))
        if number >= len(sample.document_ids):
            assert not sample.loss_mask_S[here].any()
            continue
        found.append(tuple(tuple(each[here].tolist()) for each in (sample.tokens_S, sample.targets_S, sample.loss_mask_S)))
    return found


def expected(packed) -> Counter:
    starts = packed.tokens.document_starts
    found: Counter = Counter()
    for n in range(packed.tokens.num_documents):
        ids = packed.tokens.document(n).tolist()
        mask = packed.mask.read(int(starts[n]), len(ids)).tolist()
        found[tuple(ids[:-1]), tuple(ids[1:]), tuple(map(float, mask[1:]))] += 1
    return found


def test_an_epoch_holds_every_example_once(folder):
    packed = open_packed(folder)
    training = PackedSet([(packed, 1.0)], sequence_length=S, seed=3)
    rows = packed.num_rows
    orders = []
    for epoch in range(3):
        samples = [training.sample(i) for i in range(epoch * rows, (epoch + 1) * rows)]
        assert Counter(example for sample in samples for example in unpacked(sample)) == expected(packed)
        orders.append([sample.document_ids for sample in samples])
    assert orders[0] != orders[1] != orders[2]  # another order each epoch
    batch = training.batch(range(7))
    for place in range(7):
        assert batch.document_ids_B[place] == orders[0][place]
        assert np.array_equal(batch.tokens_BS[place], training.sample(place).tokens_S)


def test_validation_goes_through_all_rows(folder):
    packed = open_packed(folder, "validation")
    held = PackedValidationSet(packed, sequence_length=S)
    assert Counter(example for i in range(len(held)) for example in unpacked(held.sample(i))) == expected(packed)
    with pytest.raises(IndexError):
        held.sample(len(held))


def test_a_mixture_keeps_its_weights(folder):
    packed, held = open_packed(folder), open_packed(folder, "validation")
    mixed = PackedSet([(packed, 3.0), (held, 1.0)], sequence_length=S, seed=0)
    sources = mixed.batch(range(40)).sources_B
    assert Counter(sources.tolist()) == {0: 30, 1: 10}


def test_ids_are_checked_against_the_vocabulary(folder):
    packed = open_packed(folder)
    largest = int(packed.tokens.read(0, packed.tokens.num_tokens).max())
    PackedSet([(packed, 1.0)], sequence_length=S, seed=0, vocab_size=largest + 1).batch(range(packed.num_rows))
    with pytest.raises(DataError, match=rf"the id {largest} \(document \d+, offset \d+\), but model.vocab_size={largest}"):
        PackedSet([(packed, 1.0)], sequence_length=S, seed=0, vocab_size=largest).batch(range(packed.num_rows))
    with pytest.raises(DataError, match="inputs for 20 places"):
        PackedSet([(packed, 1.0)], sequence_length=20, seed=0).batch(range(packed.num_rows))


def test_e2_e4_damage_beside_the_tokens_is_found(folder, tmp_path):
    """300 flipped bits, truncation, growth and absence of each array: 100 % found, and a stamp hides nothing."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    open_packed(copy)  # leaves stamps
    draw = np.random.default_rng(0)
    for name in ("train.mask.bin", "train.rows.bin"):
        file = copy / name
        good = file.read_bytes()
        for _ in range(150):
            bad = bytearray(good)
            bad[draw.integers(len(bad))] ^= 1 << int(draw.integers(8))
            file.write_bytes(bad)
            with pytest.raises(DataError, match="damaged: bytes 0 to"):
                open_packed(copy)
        for bad in (good[:-1], b"", good + b"\0"):
            file.write_bytes(bad)
            with pytest.raises(DataError, match="corpus.json says"):
                open_packed(copy)
        file.unlink()
        with pytest.raises(DataError, match="does not exist"):
            open_packed(copy)
        file.write_bytes(good)
        open_packed(copy)


@pytest.mark.parametrize("change", [{"count": -1}, {"count": 7}, {"dtype": "float64"}, {"dtype": "object"}, {"file": {}}, {"count": "3"}])
def test_a_wrong_description_of_an_array_is_refused(change, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "corpus.json"
    said = json.loads(file.read_text())
    said["parts"]["train"]["arrays"]["rows"] |= change
    file.write_text(json.dumps(said))
    with pytest.raises(DataError, match="malformed"):
        open_packed(tmp_path / "copy")


def test_e3_hostile_rows_of_the_right_checksum_are_refused(folder, tmp_path):
    """Rows that leave the file, go back, or are empty; a mask of another length: whatever the checksums say."""
    shutil.copytree(folder, tmp_path / "copy")
    packed = open_packed(folder)
    rows, count = packed.rows.read(0, len(packed.rows)).tolist(), packed.tokens.num_documents
    hostile = {"rows": [[0, 2**62, count], [0, -1, count], [0, 5, 5, count], [1, count], [0, count + 1], [count], rows[::-1]],
               "mask": [[1] * (packed.tokens.num_tokens - 1)]}
    for name, cases in hostile.items():
        for values in cases:
            said = json.loads((folder / "corpus.json").read_text())
            entry = said["parts"]["train"]["arrays"][name]
            with ArrayWriter(tmp_path / "copy" / f"train.{name}.bin", entry["dtype"]) as writer:
                writer.add(np.array(values))
                described = writer.finish()
            entry |= {"count": described.count, "file": {"size": described.file.size, "blocks": list(described.file.blocks)}}
            (tmp_path / "copy" / "corpus.json").write_text(json.dumps(said))
            with pytest.raises(DataError, match="has in its part train"):
                open_packed(tmp_path / "copy")
        shutil.copy(folder / f"train.{name}.bin", tmp_path / "copy")


def test_e4_truncated_while_in_use_is_an_error_and_no_crash(tmp_path):
    path = tmp_path / "train.mask.bin"
    with ArrayWriter(path, "uint8") as writer:
        writer.add(np.ones(100_000, dtype=np.uint8))
        description = writer.finish()
    array: MappedArray = open_array(path, description)
    assert array.read(99_000, 1000).all()
    with path.open("r+b") as stream:
        stream.truncate(10)
    with pytest.raises(DataError, match="truncated while in use"):
        array.read(99_000, 1000)


def test_another_task_is_refused(folder):
    with pytest.raises(DataError, match="task chat, not classification"):
        ClassifiedSet(folder)


def test_a_preview_shows_every_token_and_what_is_learned(folder):
    packed, tokenizer = open_packed(folder), load_tokenizer(folder)
    found = previews(str(folder), 3)
    assert len(found) == 3 and found[0].title.startswith("row 0:")
    first, last = packed.rows.read(0, 2).tolist()
    starts = packed.tokens.document_starts
    for number, shown in zip(range(first, last), found[0].examples, strict=True):
        ids = packed.tokens.document(number).tolist()
        mask = packed.mask.read(int(starts[number]), len(ids)).tolist()
        assert [token for piece in shown.pieces for token in piece.ids] == ids
        assert [piece.learned for piece in shown.pieces for _ in piece.ids] == [bool(each) for each in mask]
        plain = "".join(piece.text for piece in shown.pieces if not piece.special)
        assert plain == tokenizer.decode(ids)
        assert {piece.text for piece in shown.pieces if piece.special} == {"<|im_start|>", "<|im_end|>"}


def test_pieces_join_the_bytes_of_a_character(chat_tokenizer):
    tokenizer = load_tokenizer(chat_tokenizer)
    ids = list(tokenizer.encode("a 😀é b"))
    found = pieces(tokenizer, ids, [1] * len(ids))
    assert "".join(piece.text for piece in found) == "a 😀é b" and "\ufffd" not in "".join(piece.text for piece in found)
    assert any(len(piece.ids) > 1 for piece in found)
