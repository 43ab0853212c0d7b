"""The hash that says where a document goes, for the held-out split and for samples."""

import xxhash

HASHES = 2**64  # a hash is below this


def document_hash(data: bytes) -> int:
    """XXH3-64 of a document's UTF-8: equal documents have equal hashes, on every machine."""
    return xxhash.xxh3_64_intdigest(data)


def part_below(fraction: float) -> int:
    """The threshold below which that part of all hashes lies."""
    return int(fraction * HASHES)
