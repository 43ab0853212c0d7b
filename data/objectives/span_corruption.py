"""Span corruption: spans of a document cut out, to be told after it. B samples, S sequence, N tokens of one document, K spans.

Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", JMLR 21 (2020), section 3.1.4, with the
rule of its code (`random_spans_noise_mask`): a share of the tokens in spans of a mean length, both counts exact; text and spans alternate,
beginning with text and ending with a span. For a decoder-only model input and targets stand in one row, and the loss counts the targets:

    A <0> D E <1> <0> B C <1> F end          for A B C D E F
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ..order.permutation import mix_many
from ..samples.batch import Batch
from .draws import draw, keys_of
from .segments import Segments, ids_dtype

LEAST = 2  # tokens: one to keep, one to tell


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """The transform.

    A document of n places keeps them. A span takes two sentinels, so that the last tenth or so of a text finds no room and is left out;
    what then is still free is padding without loss. A document too short for one span stays as it is, without loss.

    Args:
        sentinels: ids, one for each span of a document; at least `most_spans(S)`.
        end_of_document: closes the targets; -1: not known, nothing does.
        noise_density: share of the tokens that is cut out.
        mean_span_length: tokens of a span in the mean.
    """

    sentinels: tuple[int, ...]
    end_of_document: int
    noise_density: float
    mean_span_length: float

    def __call__(self, batch: Batch, *, seed: int) -> Batch:
        """As `Objective.__call__`."""
        found = Segments.of(batch)
        dtype = ids_dtype(batch.tokens_BS, max(self.sentinels))
        rows_BW = np.concatenate((batch.tokens_BS, batch.targets_BS[:, -1:]), axis=1, dtype=dtype)
        loss_mask_BS = np.zeros_like(batch.loss_mask_BS)
        keys_D = keys_of(batch.samples_B[found.rows_D], found.begins_D, seed=seed)
        kept_D, taken_D = draw(keys_D, 0), draw(keys_D, 1)
        closed_D = batch.tokens_BS[found.rows_D, found.ends_D - 1] == self.end_of_document
        texts_D = self.text_lengths(batch.tokens_BS.shape[1])[found.ends_D - found.begins_D]
        texts_D = np.minimum(texts_D, found.ends_D - found.begins_D - closed_D)
        for number in np.flatnonzero(texts_D >= LEAST).tolist():
            row, begin, end = int(found.rows_D[number]), int(found.begins_D[number]), int(found.ends_D[number])
            text = batch.tokens_BS[row, begin : begin + int(texts_D[number])]
            told, inputs = self._corrupt(text, (int(kept_D[number]), int(taken_D[number])), dtype)
            # the first target is predicted in the last place of the input
            last = begin + len(told)
            rows_BW[row, begin:last] = told
            rows_BW[row, last:end] = max(0, self.end_of_document)
            loss_mask_BS[row, begin + inputs - 1 : last - 1] = 1
        return replace(batch, tokens_BS=rows_BW[:, :-1], targets_BS=rows_BW[:, 1:], loss_mask_BS=loss_mask_BS)

    def counts(self, tokens: int) -> tuple[int, int]:
        """Tokens to cut out of a text of at least two, and the spans they make: rounded, at least one, and text left between them."""
        noise = min(max(round(tokens * self.noise_density), 1), tokens - 1)
        return noise, max(1, min(round(noise / self.mean_span_length), noise, tokens - noise))

    def places(self, tokens: int) -> int:
        """Places that a text of at least two tokens takes, targets included."""
        return tokens + 2 * self.counts(tokens)[1] + (self.end_of_document >= 0)

    def most_spans(self, sequence_length: int) -> int:
        """Sentinels that a document of a whole row needs."""
        text = int(self.text_lengths(sequence_length)[-1])
        return max((self.counts(tokens)[1] for tokens in range(LEAST, text + 1)), default=1)

    def text_lengths(self, sequence_length: int) -> np.ndarray:
        """For 0 .. S places the tokens of the longest text that fits; 0 where none does."""
        return _text_lengths(self, sequence_length)

    def _corrupt(self, text_N: np.ndarray, hashes: tuple[int, int], dtype: np.dtype) -> tuple[np.ndarray, int]:
        """Input and targets in one row, and how many of them are input."""
        noise, spans = self.counts(len(text_N))
        kept_K, taken_K = cut(len(text_N) - noise, spans, hashes[0]), cut(noise, spans, hashes[1])
        is_noise_N = np.repeat(np.tile([False, True], spans), np.stack((kept_K, taken_K), axis=1).ravel())
        marks_K = np.array(self.sentinels[:spans], dtype=dtype)
        # a mark stands where each span was, and before what it held
        inputs = with_marks(text_N[~is_noise_N], np.cumsum(kept_K), marks_K)
        targets = with_marks(text_N[is_noise_N], np.cumsum(taken_K) - taken_K, marks_K)
        end = [self.end_of_document] if self.end_of_document >= 0 else []
        return np.concatenate((inputs, targets, np.array(end, dtype=dtype))), len(inputs)


@cache
def _text_lengths(objective: SpanCorruption, sequence_length: int) -> np.ndarray:
    found = np.zeros(sequence_length + 1, dtype=np.int64)
    for tokens in range(LEAST, sequence_length + 1):
        found[min(objective.places(tokens), sequence_length + 1) :] = tokens
    return found


def with_marks(text: np.ndarray, places_K: np.ndarray, marks_K: np.ndarray) -> np.ndarray:
    """Text with a mark before each of its places, which ascend (`numpy.insert`, ten times as fast)."""
    out = np.empty(len(text) + len(marks_K), dtype=marks_K.dtype)
    is_text = np.ones(len(out), dtype=bool)
    is_text[places_K + np.arange(len(marks_K))] = False
    out[is_text], out[~is_text] = text, marks_K
    return out


def cut(items: int, parts: int, key: int) -> np.ndarray:
    """Lengths of `parts` parts of at least one item, each such division equally likely.

    Args:
        items: at least `parts`.
        parts: at least 1.
        key: below 2^64; decides which of the items - 1 borders are cut, those with the smallest hashes.

    Returns:
        int64 (parts,).
    """
    if parts == 1:
        return np.array([items])
    hashes = mix_many(np.arange(items - 1, dtype=np.uint64) + np.uint64(key))
    borders = np.sort(np.argsort(hashes, kind="stable")[: parts - 1]) + 1
    edges = np.empty(parts + 1, dtype=np.int64)
    edges[0], edges[1:-1], edges[-1] = 0, borders, items
    return edges[1:] - edges[:-1]
