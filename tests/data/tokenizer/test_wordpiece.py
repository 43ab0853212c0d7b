"""WordPiece as BERT has it: trained here, or brought by the user."""

import pytest
from hexareme.data.tokenizer.tokenizer import build_tokenizer, load_tokenizer, save_tokenizer
from hexareme.data.tokenizer.training import train_tokenizer
from transformers import BertTokenizerFast

TEXTS = ["The Quick brown foxes jumped over lazy dogs, and Ran away again.\n", "Naïve cafés: 1,234 of them; 自然语言\n"] * 3


@pytest.mark.parametrize("lowercase", [False, True])
def test_trained_here(lowercase, tmp_path):
    model, end = train_tokenizer("wordpiece", TEXTS, vocab_size=300, lowercase=lowercase)
    tokenizer = save_tokenizer(tmp_path / "saved", kind="wordpiece", model=model, end_of_document=end)
    assert {name: tokenizer.special_tokens[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")} == dict(
        zip(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), range(5), strict=True))  # fmt: skip
    assert (tokenizer.padding, tokenizer.unknown, tokenizer.end_of_document) == (0, 1, 3)
    text = "The  Quick\nnaïve cafés"
    assert tokenizer.decode(tokenizer.encode(text)) == ("the quick naive cafes" if lowercase else "The Quick naïve cafés")
    assert 3 not in tokenizer.encode("a [SEP] b")
    assert tokenizer.encode("ж") == [1]


@pytest.mark.parametrize("lowercase", [False, True])
def test_the_ids_are_those_of_bert_with_the_same_vocabulary(lowercase, tmp_path):
    model, end = train_tokenizer("wordpiece", TEXTS, vocab_size=300, lowercase=lowercase)
    tokenizer = build_tokenizer("wordpiece", model, end)
    vocabulary = sorted(tokenizer._library.get_vocab().items(), key=lambda item: item[1])
    bert = BertTokenizerFast(vocab={token: place for token, place in vocabulary}, do_lower_case=lowercase)
    for text in [*TEXTS, "unaffordable dogs\tran, 自然 naïve Cafés!", "x" * 200, ""]:
        assert tokenizer.encode(text) == bert(text, add_special_tokens=False)["input_ids"]
    bert.save_pretrained(tmp_path / "bert")
    existing = load_tokenizer(tmp_path / "bert")
    assert existing.end_of_document == 3
    assert existing.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
