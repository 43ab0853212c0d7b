"""Byte-level tokenizers as others ship them, made here."""

import json
from collections.abc import Sequence

from hexareme.data.tokenizer.byte_ranks import byte_alphabet
from hexareme.data.tokenizer.split_patterns import CL100K, GPT2, O200K, QWEN2, TEKKEN
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

END = "<|endoftext|>"
FAMILIES = ("gpt2", "starcoder", "cl100k", "qwen2", "o200k", "tekken")
PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "qwen2": QWEN2, "o200k": O200K, "tekken": TEKKEN}


def trained_model(family: str, texts: Sequence[str], vocab_size: int = 900) -> bytes:
    """A `tokenizer.json` with the pre-tokenizer of a family, trained on `texts`."""
    raw = Tokenizer(models.BPE(ignore_merges=family == "cl100k"))
    if family == "gpt2":
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif family == "starcoder":
        digits = pre_tokenizers.Digits(individual_digits=True)
        raw.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        split = pre_tokenizers.Split(Regex(PATTERNS[family]), "isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if family == "qwen2":
        raw.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    raw.add_special_tokens([END])  # last, as GPT-2's
    return raw.to_str().encode()


def model_of_merges(merges: Sequence[tuple[str, str]], *, ignore_merges: bool = False, more: Sequence[str] = ()) -> bytes:
    """A `tokenizer.json` with GPT-2's pre-tokenizer and these merges.

    Args:
        merges: pairs of tokens, in order.
        ignore_merges: a piece that is a token is that token.
        more: tokens that no merge makes.
    """
    tokens = dict.fromkeys([*byte_alphabet(), *(left + right for left, right in merges), *more])
    vocabulary = {token: place for place, token in enumerate(tokens)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), ignore_merges=ignore_merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.add_special_tokens([END])
    return raw.to_str().encode()


def all_splits(model: bytes) -> bytes:
    """The same model as converters from tiktoken write it: for each token every pair of tokens that spells it."""
    file = json.loads(model)
    vocabulary = file["model"]["vocab"]
    tokens = sorted((token for token in vocabulary if len(token) > 1 and token != END), key=vocabulary.__getitem__)
    merges = []
    for token in tokens:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocabulary and token[i:] in vocabulary]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    file["model"] |= {"merges": merges, "ignore_merges": True}
    return json.dumps(file).encode()
