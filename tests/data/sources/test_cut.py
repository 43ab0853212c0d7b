"""Cuts between records: the same pieces however the bytes arrive, compared with a cut of the whole by the standard library."""

import csv
import io
import re

from hexareme.data.sources.cut import Behind, BehindBlankLine, OutsideQuotes, pieces
from hexareme.data.sources.warc import WarcCutter, split
from hypothesis import given, settings
from hypothesis import strategies as st

FIELD = st.text(st.sampled_from('ab",\n '), max_size=9)
ARRIVALS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
PARTS = [b"\n", b"\n\n", b"\r\n", b" ", b'"', b",", b"abc", b"x" * 30, b"</page>", b"</pa", b"\t"]
SOUP = st.lists(st.sampled_from(PARTS), max_size=60).map(b"".join)


def arriving(data: bytes, sizes: list[int]):
    """The bytes in pieces of these sizes, again and again."""
    at = number = 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        yield data[at : at + size]
        at, number = at + size, number + 1


def least_cuts(borders: list[int], end: int, least: int) -> list[int]:
    """From each cut on, the first border that makes a piece of that size."""
    cuts, last = [], 0
    for border in borders:
        if border - last >= least:
            cuts.append(border)
            last = border
    return cuts if cuts and cuts[-1] == end or not end else [*cuts, end]


def row_ends(data: bytes) -> list[int]:
    """Where the rows of Python's csv end: a mark in the middle of a field is a character as any."""
    taken, ends = [0], []

    def lines():
        for line in re.split(b"(?<=\n)", data):
            taken[0] += len(line)
            yield line.decode()

    for _ in csv.reader(lines()):
        ends.append(taken[0])
    return ends


@settings(max_examples=300, deadline=None)
@given(SOUP, ARRIVALS, st.integers(1, 50), st.sampled_from(["line", "page", "row"]))
def test_pieces_end_at_the_first_border_that_is_far_enough(data, arrivals, least, kind):
    make = {"line": Behind, "page": lambda: Behind(b"</page>"), "row": OutsideQuotes}[kind]
    borders = row_ends(data) if kind == "row" else [match.end() for match in re.finditer(b"\n" if kind == "line" else b"</page>", data)]
    cut = list(pieces(arriving(data, arrivals), make, least=least))
    assert b"".join(piece.data for piece in cut) == data
    ends = [sum(piece.size for piece in cut[: i + 1]) for i in range(len(cut))]
    assert ends == least_cuts(borders, len(data), least)
    assert [piece.line_feeds for piece in cut] == [piece.data.count(b"\n") for piece in cut]


@settings(max_examples=300, deadline=None)
@given(SOUP, ARRIVALS, ARRIVALS, st.integers(1, 30), st.integers(0, 30))
def test_pieces_do_not_depend_on_how_the_bytes_arrive(data, one, other, least, more):
    for make in (Behind, lambda: Behind(b"</page>"), OutsideQuotes, BehindBlankLine):
        first = list(pieces(arriving(data, one), make, least=least, most=least + more))
        assert first == list(pieces(arriving(data, other), make, least=least, most=least + more))
        assert sum(piece.size for piece in first) == len(data)
        assert sum(piece.line_feeds for piece in first) == data.count(b"\n")


@settings(max_examples=200, deadline=None)
@given(SOUP, ARRIVALS, st.integers(1, 30), st.integers(0, 30))
def test_long_lines_are_dropped_and_no_other(data, arrivals, least, more):
    lines = re.split(b"(?<=\n)", data)
    kept = b"".join(piece.data for piece in pieces(arriving(data, arrivals), Behind, least=least, most=least + more))
    assert kept == b"".join(line for line in lines if len(line) <= least + more)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), max_size=20), ARRIVALS, st.integers(1, 60))
def test_rows_stay_whole(rows, arrivals, least):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    cut = pieces(arriving(out.getvalue().encode(), arrivals), OutsideQuotes, least=least)
    assert [row for piece in cut for row in csv.reader(io.StringIO(piece.data.decode(), newline=""))] == [list(row) for row in rows]


def test_one_mark_inside_of_a_field_takes_no_other_row_along():
    rows = [b'1,a 5" disk\n', *(b"%d,plain\n" % number for number in range(1000)), b'2,"quoted, with ""two""\nlines"\n', b"3,end\n"]
    cut = list(pieces(arriving(b"".join(rows), [7]), OutsideQuotes, least=1, most=40))
    assert [piece.data for piece in cut] == rows and not any(piece.dropped for piece in cut)


def warc_record(body: bytes) -> bytes:
    return b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (len(body), body)


JUNK = [b"", b"", b"junk\r\n", b"WARC/1.0\r\nno length\r\n\r\n"]
BODIES = st.lists(st.sampled_from([b"", b"WARC/1.0\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n\r\n", b"x" * 70]), max_size=5).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(BODIES, st.sampled_from(JUNK)), max_size=8), ARRIVALS, st.integers(1, 300))
def test_web_records_are_cut_by_their_length(parts, arrivals, least):
    records = [piece for body, junk in parts for piece in (warc_record(body), junk) if piece]
    cut = list(pieces(arriving(b"".join(records), arrivals), WarcCutter, least=least))
    assert [record for piece in cut for record in split(piece.data)] == records
