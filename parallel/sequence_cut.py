"""Which part of each sample's window a rank of the context axis holds. Pure arithmetic.

ring: the window is cut into 2 cp equal chunks and rank r holds chunks r and 2 cp - 1 - r. Under a causal mask a token attends to all before
it, so early chunks are cheap and late ones dear; these pairs all cost the same ("zig-zag", as Llama 3's context parallelism, Dubey et al.
2024, section 3.3.2, lays them out). ulysses: attention sees whole windows there, so plain neighbouring parts do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from .topology import divisors

KINDS = ("ring", "ulysses")


@dataclass(frozen=True)
class Block:
    """What a rank computes with the keys of another: a rectangle of the causal triangle, in local order.

    Args:
        queries, keys: which of the local queries, and of the other rank's keys; every pair outside of them is masked.
        causal: inside the rectangle a query still sees only keys up to its own place; False: it sees all of them.
    """

    queries: slice
    keys: slice
    causal: bool


def chunks(sequence_length: int, *, cp: int, rank: int, kind: str) -> list[range]:
    """The runs of neighbouring window places that a rank holds, in its local order, which ascends.

    Args:
        sequence_length: tokens of the whole window.
        cp: ranks of the context axis.
        rank: this one, from 0.
        kind: ring or ulysses.

    Raises:
        ValueError: no such kind, or the window cannot be cut evenly.
    """
    if kind not in KINDS:
        raise ValueError(f"parallel.context_attention={kind!r} is unknown; choose from {KINDS}")
    if not 0 <= rank < cp:
        raise ValueError(f"rank={rank} is outside the {cp} ranks of the context axis")
    if cp == 1:
        return [range(sequence_length)]
    parts = 2 * cp if kind == "ring" else cp
    _check(sequence_length, cp=cp, parts=parts, kind=kind)
    size = sequence_length // parts
    numbers = (rank, parts - 1 - rank) if kind == "ring" else (rank,)
    return [range(number * size, (number + 1) * size) for number in numbers]


def places(sequence_length: int, *, cp: int, rank: int, kind: str) -> list[int]:
    """The window places of a rank's tokens, in local order; arguments and errors as for `chunks`."""
    return list(chain.from_iterable(chunks(sequence_length, cp=cp, rank=rank, kind=kind)))


def ring_block(rank: int, source: int, length: int) -> Block:
    """What `rank` computes with the keys of `source` under ring's cut; half of all pairs wherever they differ.

    Args:
        rank, source: numbers on the context axis.
        length: tokens that each of them holds, two chunks.
    """
    whole, half = slice(0, length), length // 2
    if source == rank:
        return Block(whole, whole, causal=True)  # local order ascends, so the mask is the ordinary triangle
    if source < rank:
        return Block(whole, slice(0, half), causal=False)  # its second chunk lies behind both of ours
    return Block(slice(half, length), whole, causal=False)  # our first chunk lies before both of its


def tiles(block: Block, rows: int) -> Iterator[Block]:
    """A block in pieces of at most `rows` queries; a causal one without the keys that lie behind all queries of a piece."""
    for start in range(block.queries.start, block.queries.stop, rows):
        stop = min(start + rows, block.queries.stop)
        keys = slice(block.keys.start, min(stop, block.keys.stop)) if block.causal else block.keys
        yield Block(slice(start, stop), keys, block.causal)


def _check(sequence_length: int, *, cp: int, parts: int, kind: str) -> None:
    if sequence_length % parts == 0:
        return
    unit = parts // cp  # chunks that each rank holds
    near = [size for size in (sequence_length // parts * parts, -(-sequence_length // parts) * parts) if size]
    fitting = [degree for degree in divisors(sequence_length) if sequence_length % (unit * degree) == 0] or [1]
    why = f"2 * parallel.cp={cp} equal chunks (two for each rank, parallel.context_attention=ring)" if unit == 2 else \
        f"parallel.cp={cp} equal parts (parallel.context_attention={kind})"
    raise ValueError(f"model.sequence_length={sequence_length} cannot be cut into {why}; "
                     f"try model.sequence_length={' or '.join(map(str, near))}, or parallel.cp in {fitting}")
