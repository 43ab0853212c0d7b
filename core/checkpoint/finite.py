"""Whether floating-point elements are finite, read from their exponent bits. Pure: numpy only, so also types that numpy has not."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CHUNK = 2**20  # elements at once: the answers of one chunk stay in the cache
_NATIVE = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
# type of the bits, the mask, and the value under it of what is not finite (float8_e4m3fn has NaN only)
_BITS = {"bfloat16": (np.uint16, 0x7F80), "float8_e5m2": (np.uint8, 0x7C), "float8_e4m3fn": (np.uint8, 0x7F)}


class FloatSpan(NamedTuple):
    """Bytes [begin, end) of a file that hold elements of one floating-point tensor; the label names it for the user."""

    begin: int
    end: int
    dtype: str
    label: str


def is_float(dtype: str) -> bool:
    """Whether elements of this type can be other than finite."""
    return dtype in _NATIVE or dtype in _BITS


def non_finite_count(content: memoryview, dtype: str) -> int:
    """How many elements are NaN or infinite.

    Args:
        content: whole elements.
        dtype: torch's name of a floating-point type.
    """
    native = _NATIVE.get(dtype)
    elements = np.frombuffer(content, dtype=_BITS[dtype][0] if native is None else native)
    return sum(_count(elements[start : start + CHUNK], dtype) for start in range(0, len(elements), CHUNK))


def _count(elements: "np.ndarray[Any, np.dtype[Any]]", dtype: str) -> int:
    if dtype in _NATIVE:
        finite = np.isfinite(elements)
    else:
        mask = _BITS[dtype][1]
        finite = (elements & mask) != mask
    return 0 if finite.all() else int(np.count_nonzero(~finite))


def merged(spans: Sequence[FloatSpan]) -> list[FloatSpan]:
    """Neighbouring slices of one tensor as one span."""
    found: list[FloatSpan] = []
    for span in spans:
        if found and (found[-1].end, found[-1].dtype, found[-1].label) == (span.begin, span.dtype, span.label):
            found[-1] = FloatSpan(found[-1].begin, span.end, span.dtype, span.label)
        else:
            found.append(span)
    return found
