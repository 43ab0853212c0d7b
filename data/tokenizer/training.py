"""Trains a tokenizer on a sample of the corpus: the same sample gives the same bytes, on any machine with the same libraries."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import DataError
from .cutting import cut
from .tokenizer import END_OF_DOCUMENT, TRAINED_KINDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.trainers import Trainer

_SENTENCE = 1 << 16  # characters; SentencePiece drops a whole sentence for one NUL, so no sentence is long
_THREADS = 8  # for every machine: unigram sums expectations thread by thread, so another number would change its pieces
_TOO_SMALL = "Vocabulary size is smaller than required_chars"
_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # in BERT's order; [SEP] ends a document


def train_tokenizer(
    kind: str, texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str] = (), lowercase: bool = False
) -> tuple[bytes, int]:
    """Trains a tokenizer whose `decode(encode(text))` is `text`, for every text; only WordPiece keeps no more than the words.

    BPE: Sennrich et al. 2016 (arXiv:1508.07909), unigram: Kudo 2018 (arXiv:1804.10959), both by SentencePiece with byte fallback
    and no normalization; byte_bpe: byte-level BPE with the pattern of GPT-2 (Radford et al. 2019), by Hugging Face tokenizers;
    wordpiece: BERT's (Devlin et al. 2019, arXiv:1810.04805; trained by merges as the library does), with `[SEP]` after each document.

    Args:
        kind: one of `TRAINED_KINDS`.
        texts: the sample; its order counts.
        vocab_size: pieces; fewer come back where the sample does not hold as many.
        special_tokens: found in no text. Their ids follow that of the end of a document, so they do not depend on the sample.
        lowercase: wordpiece: all letters are made small, and lose their accents.

    Returns:
        The bytes of the model file, and the end-of-document id.

    Raises:
        DataError: `vocab_size` is too small for the single characters and bytes.
    """
    assert kind in TRAINED_KINDS, kind
    if kind == "byte_bpe":
        return _train_byte_bpe(texts, vocab_size, [END_OF_DOCUMENT, *special_tokens])
    if kind == "wordpiece":
        return _train_wordpiece(texts, vocab_size, [*_BERT_TOKENS, *special_tokens], lowercase)
    return _train_sentencepiece(kind.removeprefix("sentencepiece_"), texts, vocab_size, [END_OF_DOCUMENT, *special_tokens])


def _train_sentencepiece(model_type: str, texts: Iterable[str], vocab_size: int, special: Sequence[str]) -> tuple[bytes, int]:
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # a small corpus may not hold as many pieces
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # runs of spaces and newlines: the indentation of code
            byte_fallback=True,
            character_coverage=0.9995,
            max_sentence_length=4 * _SENTENCE,  # bytes
            control_symbols=list(special),
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if _TOO_SMALL not in str(error):
            raise
        needed = str(error).split(_TOO_SMALL)[1].split(".")[1].split()[-1]
        way = f"set tokenizer.vocab_size to at least {needed}, or tokenizer.kind=byte_bpe"
        message = f"tokenizer.vocab_size={vocab_size} is smaller than the {needed} characters and bytes of the corpus"
        raise DataError(message, do=way) from error
    return model.getvalue(), SentencePieceProcessor(model_proto=model.getvalue()).piece_to_id(END_OF_DOCUMENT)


def _train_byte_bpe(texts: Iterable[str], vocab_size: int, special: Sequence[str]) -> tuple[bytes, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    return _trained(tokenizer, trainer, _sentences(texts), special=special, end_token=END_OF_DOCUMENT)


def _train_wordpiece(texts: Iterable[str], vocab_size: int, special: Sequence[str], lowercase: bool) -> tuple[bytes, int]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]  # wrong in the library's stubs
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    sentences = list(_sentences(texts))
    # The library numbers characters inside of words in the order of a hash map, another one each time, and ties between merges fall by
    # number. So it is told these in order, as special tokens, which they do not stay.
    tokenizer.train_from_iterator(sentences, trainers.WordPieceTrainer(vocab_size=0, show_progress=False))
    inside = sorted(token for token in tokenizer.get_vocab() if len(token) == len("##") + 1 and token.startswith("##"))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*special, *inside], show_progress=False)
    return _trained(tokenizer, trainer, sentences, special=special, end_token="[SEP]")


def _trained(
    tokenizer: "Tokenizer", trainer: "Trainer", sentences: Iterable[str], *, special: Sequence[str], end_token: str
) -> tuple[bytes, int]:
    tokenizer.train_from_iterator(sentences, trainer)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in special]
    end = tokenizer.token_to_id(end_token)
    assert end is not None
    return json.dumps(file, ensure_ascii=False, indent=1).encode(), end


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from cut(text, _SENTENCE)
