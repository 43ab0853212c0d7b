"""Reads W&B's transaction log (`run-<id>.wandb`), to find which steps an earlier session has already recorded.

The file is a LevelDB log (github.com/google/leveldb/blob/main/doc/log_format.md) whose first block begins with a seven-byte header of
W&B's; its records are `wandb_internal_pb2.Record`.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK_BYTES = 32768
FILE_HEADER_BYTES = 7
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Each logged row of a transaction log, in order; ends quietly where a killed session's file ends.

    Args:
        path: a `.wandb` file.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    for record in _records(path.read_bytes()):
        message = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        try:
            message.ParseFromString(record)
        except DecodeError:
            return
        if message.HasField("history"):
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in message.history.item}


def _records(content: bytes) -> Iterator[bytes]:
    position = FILE_HEADER_BYTES
    parts: list[bytes] = []
    while True:
        if BLOCK_BYTES - position % BLOCK_BYTES < CHUNK_HEADER.size:
            position += BLOCK_BYTES - position % BLOCK_BYTES  # the rest of a block is padding
        if position + CHUNK_HEADER.size > len(content):
            return
        _, length, kind = CHUNK_HEADER.unpack_from(content, position)
        position += CHUNK_HEADER.size
        if kind not in (FULL, FIRST, MIDDLE, LAST) or position + length > len(content):
            return
        if kind in (FULL, FIRST):
            parts = []
        parts.append(content[position:position + length])
        position += length
        if kind in (FULL, LAST):
            yield b"".join(parts)
