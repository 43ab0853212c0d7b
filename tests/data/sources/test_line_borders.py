"""The borders of lines that nobody copies are those of the lines that are kept."""

from hexareme.data.sources.cut import Behind, pieces
from hexareme.data.sources.line_borders import line_pieces
from hypothesis import given, settings
from hypothesis import strategies as st

from .test_cut import arriving


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([b"\n", b"\n\n", b"abc", b"x" * 30, b"y"]), max_size=60).map(b"".join),
       st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 50), st.integers(0, 60))
def test_the_pieces_are_the_same(data, arrivals, least, more):
    kept = list(pieces(arriving(data, arrivals), Behind, least=least, most=least + more, keep=False))
    assert list(line_pieces(arriving(data, arrivals), least=least, most=least + more)) == kept
    assert sum(piece.size for piece in kept) == len(data) and sum(piece.line_feeds for piece in kept) == data.count(b"\n")
