"""Whole examples into rows of equal length: best-fit decreasing inside a window of examples."""

from bisect import bisect_left, insort

import numpy as np


def pack(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Which items share a row: best-fit decreasing (Johnson, "Near-optimal bin packing algorithms", MIT 1973), in O(n log n).

    Args:
        sizes: int64 (n,), 1 .. capacity each.
        capacity: of a row.

    Returns:
        The items of each row in their order; rows in the order of their first item. Every item is in exactly one row.
    """
    assert not len(sizes) or sizes.min() >= 1 and sizes.max() <= capacity
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room left -> rows with so much of it
    rooms: list[int] = []  # the keys of open_rows, sorted
    order = np.argsort(-sizes, kind="stable")  # equal sizes in their order: the result is one and the same everywhere
    for item, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        place = bisect_left(rooms, size)
        if place == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[place]
        rows[row].append(item)
        left = room - size
        if not left:
            continue
        if left not in open_rows:
            insort(rooms, left)
            open_rows[left] = []
        open_rows[left].append(row)
    return sorted(sorted(row) for row in rows)
