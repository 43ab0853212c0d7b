"""Chats with a SentencePiece model: control pieces by their ids, every learned character covered, the text back."""

import pytest
from hexareme.data.finetune.builtin_templates import BUILT_IN
from hexareme.data.finetune.chat_encoder import load_chat_encoder
from hexareme.data.finetune.examples import ExampleMaker
from hexareme.data.finetune.records import Conversation
from hexareme.data.finetune.template import ChatTemplate
from hexareme.data.finetune.tokenizer_folder import template_variables
from hexareme.data.tokenizer.tokenizer import load_tokenizer, save_tokenizer
from hexareme.data.tokenizer.training import train_tokenizer

from .conftest import source_text

MARKERS = ("<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    model, end = train_tokenizer("sentencepiece_bpe", [source_text()[:20_000]], vocab_size=600, special_tokens=MARKERS)
    save_tokenizer(place, kind="sentencepiece_bpe", model=model, end_of_document=end, special_tokens=MARKERS)
    return place


@pytest.mark.parametrize("answer", ["Noon.", "é 😀", " two  spaces\n", "😀"])
def test_markers_are_single_ids_and_answers_are_covered(answer, folder):
    tokenizer = load_tokenizer(folder)
    variables = template_variables(folder, tokenizer)
    template = ChatTemplate(BUILT_IN["chatml"], variables=variables)
    maker = ExampleMaker(template, template, load_chat_encoder(folder, tokenizer, variables), tokenizer, last_only=False)
    found = maker.example(Conversation([{"role": "user", "content": "When? ü"}, {"role": "assistant", "content": answer}]))
    start, end = (tokenizer.special_tokens[marker] for marker in MARKERS)
    ids, learned = found.ids.tolist(), found.ids[found.mask == 1].tolist()
    assert (ids.count(start), ids.count(end)) == (2, 2) and learned[-1] == end
    assert tokenizer.decode(learned[:-1]) == answer
    assert tokenizer.decode(ids) == f"user\nWhen? ü\nassistant\n{answer}\n"
