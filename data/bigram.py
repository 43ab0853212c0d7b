"""An interpolated Kneser-Ney bigram model: the simplest language model worth beating, over the same token ids.

S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", TR-10-98, Harvard, 1998: section 2.7
(absolute discounting, D = n1 / (n1 + 2 n2)) and section 3.1 (interpolated Kneser-Ney). With c a count, N1+ a number of distinct bigrams, V
the vocabulary:

    p(w | v) = max(c(v w) - D, 0) / c(v) + D N1+(v .) / c(v) * p(w)
    p(w)     = max(N1+(. w) - d, 0) / N1+(. .) + d #{w: N1+(. w) > 0} / N1+(. .) / V

After a v that training never saw, p(w | v) = p(w).
"""

import math
from collections.abc import Iterator

import numpy as np

from .errors import DataError
from .tokens.token_file import TokenFile

CHUNK = 2**20  # bigrams counted at a time


class BigramModel:
    """A Kneser-Ney model of a token file, counted in chunks: memory grows with the distinct bigrams only (16 bytes each).

    Args:
        train: what is counted; at least two tokens.
        vocab_size: V.

    Raises:
        DataError: fewer than two tokens, or an id that is not below vocab_size.
    """

    def __init__(self, train: TokenFile, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._bigrams, self._counts = _count(_bigrams(train, vocab_size))
        contexts, words = np.divmod(self._bigrams, vocab_size)
        self._context_counts = np.bincount(contexts, weights=self._counts, minlength=vocab_size)
        self._followers = np.bincount(contexts, minlength=vocab_size)
        preceders = np.bincount(words, minlength=vocab_size)
        self._discount = _discount(self._counts)
        self._words = _interpolate_uniform(preceders, vocab_size)

    def probabilities(self, previous: np.ndarray, words: np.ndarray) -> np.ndarray:
        """p(word | previous), float64, for two arrays of ids of one shape (n,)."""
        totals = self._context_counts[previous]
        seen = np.maximum(self._count_of(previous * self.vocab_size + words) - self._discount, 0)
        held_back = np.where(totals > 0, self._discount * self._followers[previous], 1)
        return (seen + held_back * self._words[words]) / np.maximum(totals, 1)

    def _count_of(self, bigrams: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self._bigrams, bigrams), len(self._bigrams) - 1)
        return np.where(self._bigrams[at] == bigrams, self._counts[at], 0)


def kneser_ney_perplexity(train: TokenFile, validation: TokenFile, vocab_size: int) -> float:
    """Perplexity of all validation tokens but the first, which nothing precedes: the targets of `ValidationSet`.

    Raises:
        DataError: fewer than two tokens on either side, or an id that is not below vocab_size.
    """
    model = BigramModel(train, vocab_size)
    total = 0.0
    for chunk in _bigrams(validation, vocab_size):
        bigrams, counts = np.unique(chunk, return_counts=True)  # sorted: neighbours are found in the same cache lines
        total += float(counts @ np.log(model.probabilities(*np.divmod(bigrams, vocab_size))))
    return math.exp(-total / (validation.num_tokens - 1))


def _bigrams(file: TokenFile, vocab_size: int) -> Iterator[np.ndarray]:
    """Chunks of previous * vocab_size + next, int64, over the whole stream."""
    if file.num_tokens < 2:
        message = f"{file.prefix} holds {file.num_tokens} tokens, a bigram model needs 2"
        raise DataError(message, do="prepare more text", file=f"{file.prefix}.bin")
    for start in range(0, file.num_tokens - 1, CHUNK):
        ids = file.read(start, min(CHUNK + 1, file.num_tokens - start)).astype(np.int64)
        if ids.max() >= vocab_size or ids.min() < 0:
            message = f"{file.prefix}.bin holds an id outside 0 .. {vocab_size - 1}: {ids.min()} .. {ids.max()}"
            raise DataError(message, do="use the vocabulary of the corpus", file=f"{file.prefix}.bin")
        yield ids[:-1] * vocab_size + ids[1:]


def _count(chunks: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and their counts. Runs merge when they are of like size, so each value is merged a logarithmic number of times."""
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    for chunk in chunks:
        runs.append(np.unique(chunk, return_counts=True))
        while len(runs) > 1 and 2 * len(runs[-1][0]) >= len(runs[-2][0]):
            runs.append(_merge(runs.pop(), runs.pop()))
    while len(runs) > 1:
        runs.append(_merge(runs.pop(), runs.pop()))
    return runs[0]


def _merge(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([one[0], other[0]])
    counts = np.concatenate([one[1], other[1]])
    order = np.argsort(values, kind="stable")  # radix or merge sort: cheap on two sorted runs
    values, counts = values[order], counts[order]
    first = np.flatnonzero(np.diff(values, prepend=-1))
    return values[first], np.add.reduceat(counts, first)


def _discount(counts: np.ndarray) -> float:
    """D = n1 / (n1 + 2 n2); a half where no count is 1, because without any discount an unseen word would be impossible."""
    ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
    return ones / (ones + 2 * twos) if ones else 0.5


def _interpolate_uniform(preceders: np.ndarray, vocab_size: int) -> np.ndarray:
    """p(w) for every word, float64 (V,)."""
    total, discount = preceders.sum(), _discount(preceders)
    uniform = discount * np.count_nonzero(preceders) / total / vocab_size
    return np.maximum(preceders - discount, 0) / total + uniform
