"""Whether a byte-level BPE of Hugging Face is one of tiktoken's, and which. Pure.

Hugging Face merges only the pairs that its list names; tiktoken merges any two neighbours whose joined bytes are a token, in the order of
the tokens' ranks. Both give the same ids for every text where, for each token c of rank r, byte pair encoding of c's own bytes with
the tokens below r ends in one pair that the list names for c: then no other pair ever becomes the next to be merged. (Both always
merge the lowest rank, so what happens inside the span of c, before a merge reaches across its border, is what happens to c alone; just
before r its state is that pair. A "proper" dictionary: Berglund and van der Merwe 2023, arXiv:2309.08715.) A token for which this fails
does no harm where the list names all its splits, its occurrences never overlap, and no token of lower rank begins or ends with it:
then both merge the same occurrences, only in another order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_NO_RANK = 1 << 62


@dataclass(frozen=True)
class ByteRanks:
    """What tiktoken is given.

    Args:
        ranks: bytes of a token to its place in the order of merges; tokens that no merge makes have any place.
        ids: (tokens,) uint32, the id of each rank; None: ranks are ids.
    """

    ranks: dict[bytes, int]
    ids: np.ndarray | None


@dataclass
class _Token:
    """A token that merges make: its rank, the pairs that are listed for it, and whether one of them is listed apart from the others."""

    rank: int
    pairs: set[tuple[bytes, bytes]] = field(default_factory=set)
    apart: bool = False


def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes as characters that can be seen (Radford et al. 2019, `bytes_to_unicode`)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


class _Spelling(dict[int, int]):
    """The bytes that a spelling stands for. `str.translate` asks it for each character; half of a start went into asking in Python."""

    def __init__(self) -> None:
        super().__init__({ord(character): byte for character, byte in byte_alphabet().items()})

    def __missing__(self, character: int) -> int:
        return 256  # what Latin-1 cannot encode

    def bytes_of(self, spelling: str) -> bytes | None:
        """None where it is not of the alphabet."""
        try:
            return spelling.translate(self).encode("latin-1")
        except UnicodeEncodeError:
            return None


def byte_ranks(
    vocabulary: Mapping[str, int], merges: Iterable[str | Sequence[str]], *, ignore_merges: bool, proven: bool = False
) -> ByteRanks | None:
    """The ranks with which tiktoken gives the same ids for every piece of text; None where that cannot be shown.

    Args:
        vocabulary: of the model, spelled in the byte alphabet; other entries are never found in a text.
        merges: pairs in the order of their ranks, as lists or as one string with a space.
        ignore_merges: a piece that is a token is that token, whether or not merges lead to it.
        proven: it was shown before for the same arguments.
    """
    spelled = _Spelling().bytes_of
    ids = {spelling_bytes: number for spelling, number in vocabulary.items() if (spelling_bytes := spelled(spelling)) is not None}
    merged: dict[bytes, _Token] = {}
    last = None
    for pair in merges:
        left, right = map(spelled, pair.split(" ") if isinstance(pair, str) else pair)
        if left is None or right is None or left + right not in ids:
            return None
        token = merged.setdefault(left + right, _Token(256 + len(merged)))
        token.apart |= bool(token.pairs) and token is not last
        token.pairs.add((left, right))
        last = token
    singles = [bytes([byte]) for byte in range(256)]
    if any(single not in ids or single in merged for single in singles):
        return None
    ranks = {single: rank for rank, single in enumerate(singles)} | {token: found.rank for token, found in merged.items()}
    whole = [token for token in ids if token not in ranks and token] if ignore_merges else []
    if not proven and (any(_splits(token, ranks) for token in whole) or not _agree(merged, ranks, ignore_merges=ignore_merges)):
        return None
    order = [ids[token] for token in merged]
    if order == sorted(order):
        return ByteRanks({token: ids[token] for token in (*ranks, *whole)}, None)
    ranks |= {token: len(ranks) + place for place, token in enumerate(whole)}
    return ByteRanks(ranks, np.array([ids[token] for token in ranks], np.uint32))


def byte_pairs(data: bytes, ranks: Mapping[bytes, int], below: int = _NO_RANK) -> list[bytes]:
    """Byte pair encoding as tiktoken does it, with the tokens below a rank.

    Args:
        data: not empty.
        ranks: of all tokens.
        below: only merges of a smaller rank are done.
    """
    pieces = [bytes([byte]) for byte in data]
    while len(pieces) > 1:
        best, place = min((ranks.get(pieces[i] + pieces[i + 1], _NO_RANK), i) for i in range(len(pieces) - 1))
        if best >= below:
            break
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def _agree(merged: Mapping[bytes, _Token], ranks: Mapping[bytes, int], *, ignore_merges: bool) -> bool:
    improper = []
    for data, token in merged.items():
        ending = byte_pairs(data, ranks, below=token.rank)
        if token.apart or len(ending) != 2 or (ending[0], ending[1]) not in token.pairs:
            improper.append(data)
    if not improper:
        return True
    if any(merged[data].apart or not _harmless(data, merged[data], ranks) for data in improper):
        return False
    if not ignore_merges and any(byte_pairs(data, ranks) != [data] for data in improper):
        return False
    starts = {token[:length] for token in ranks for length in range(1, len(token)) if ranks.get(token[:length], -1) > ranks[token]}
    ends = {token[-length:] for token in ranks for length in range(1, len(token)) if ranks.get(token[-length:], -1) > ranks[token]}
    return not (starts | ends) & set(improper)


def _harmless(data: bytes, token: _Token, ranks: Mapping[bytes, int]) -> bool:
    overlaps = any(data[:length] == data[-length:] for length in range(1, len(data)))
    return not overlaps and _splits(data, ranks) <= token.pairs


def _splits(data: bytes, ranks: Mapping[bytes, int]) -> set[tuple[bytes, bytes]]:
    return {(data[:i], data[i:]) for i in range(1, len(data)) if data[:i] in ranks and data[i:] in ranks}
