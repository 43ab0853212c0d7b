"""The bigram model against the formulas written out with dictionaries."""

import math
from collections import Counter

import numpy as np
import pytest
from hexareme.data.bigram import CHUNK, BigramModel, kneser_ney_perplexity
from hexareme.data.errors import DataError
from hexareme.data.tokens.token_file import TokenFile

from .token_files import write_tokens


class Dictionaries:
    """Chen and Goodman, section 3.1, one probability at a time."""

    def __init__(self, stream, vocab_size):
        self.vocab_size = vocab_size
        self.bigrams = Counter(zip(stream, stream[1:], strict=False))
        self.contexts = Counter(stream[:-1])
        self.followers = Counter(v for v, _ in self.bigrams)
        self.preceders = Counter(w for _, w in self.bigrams)

    @staticmethod
    def discount(counts):
        ones, twos = list(counts).count(1), list(counts).count(2)
        return ones / (ones + 2 * twos) if ones else 0.5

    def word(self, w):
        types, d = len(self.bigrams), self.discount(self.preceders.values())
        return max(self.preceders[w] - d, 0) / types + d * len(self.preceders) / types / self.vocab_size

    def probability(self, v, w):
        if not self.contexts[v]:
            return self.word(w)
        d = self.discount(self.bigrams.values())
        return (max(self.bigrams[v, w] - d, 0) + d * self.followers[v] * self.word(w)) / self.contexts[v]

    def perplexity(self, stream):
        logs = [math.log(self.probability(v, w)) for v, w in zip(stream, stream[1:], strict=False)]
        return math.exp(-math.fsum(logs) / len(logs))


def zipf(count, vocab_size, seed):
    """A stream in which a word depends on the one before it."""
    rng = np.random.default_rng(seed)
    steps = (rng.zipf(1.5, count) % vocab_size).tolist()
    stream = [0]
    for step in steps:
        stream.append((stream[-1] * 3 + step) % vocab_size)
    return stream


def token_file(path, stream):
    write_tokens(path, [stream])
    return TokenFile(path)


@pytest.mark.parametrize(("count", "vocab_size"), [(50, 7), (300, 40), (3000, 40), (500, 1000)])
def test_same_as_dictionaries(tmp_path, count, vocab_size):
    train, validation = zipf(count, vocab_size - 1, 0), zipf(200, vocab_size, 1)
    found = kneser_ney_perplexity(token_file(tmp_path / "t", train), token_file(tmp_path / "v", validation), vocab_size)
    assert found == pytest.approx(Dictionaries(train, vocab_size).perplexity(validation), rel=1e-12)


@pytest.mark.parametrize("stream", [zipf(300, 30, 2), [0, 1], [3, 3, 3, 3], [1, 2, 1, 2, 1, 2], zipf(5000, 5, 3)])
def test_probabilities_of_each_context_add_up_to_one(tmp_path, stream):
    vocab_size = 31
    model = BigramModel(token_file(tmp_path / "t", stream), vocab_size)
    words = np.arange(vocab_size)
    for context in range(vocab_size):
        probabilities = model.probabilities(np.full(vocab_size, context), words)
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)
        assert probabilities.min() > 0


def test_many_chunks(tmp_path):
    stream = np.tile(zipf(CHUNK // 4, 50, 4), 10)[: 2 * CHUNK + 5]
    model = BigramModel(token_file(tmp_path / "t", stream), 50)
    slow = Dictionaries(stream.tolist(), 50)
    for v, w in [(0, 1), (10, 33), (49, 0), (7, 7)]:
        assert model.probabilities(np.array([v]), np.array([w]))[0] == pytest.approx(slow.probability(v, w), rel=1e-12)


def test_large_vocabulary(tmp_path):
    train, validation = zipf(3000, 65_536, 5), zipf(300, 65_536, 6)
    found = kneser_ney_perplexity(token_file(tmp_path / "t", train), token_file(tmp_path / "v", validation), 65_536)
    assert found == pytest.approx(Dictionaries(train, 65_536).perplexity(validation), rel=1e-12)


def test_wrong_input(tmp_path):
    good, short = token_file(tmp_path / "good", [1, 2, 3]), token_file(tmp_path / "short", [1])
    for train, validation in ((good, short), (short, good)):
        with pytest.raises(DataError, match="holds 1 tokens"):
            kneser_ney_perplexity(train, validation, 10)
    with pytest.raises(DataError, match=r"outside 0 \.\. 2"):
        kneser_ney_perplexity(good, good, 3)
