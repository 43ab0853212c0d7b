"""What generate prints while the text grows: all of it, each character once, never a part of a stop text or of an unfinished character."""

from hexareme.launcher.commands.generate import Held
from hypothesis import given
from hypothesis import strategies as st

LETTERS = st.text("ab\nc", max_size=30)


def printed(whole, ends, stops):
    """The pieces of a text that grows to each of the lengths in turn, then the rest."""
    held, pieces = Held(stops), []
    for end in sorted(ends):
        pieces.append(held.released(whole[:end]))
        if held.stopped:
            return pieces
    return [*pieces, held.rest(whole)]


@given(LETTERS, st.sets(st.integers(0, 30)), st.lists(st.text("abc", min_size=1, max_size=4), max_size=2))
def test_the_pieces_are_the_text_up_to_the_first_stop(whole, ends, stops):
    ends = {end for end in ends if end <= len(whole)} | {len(whole)}
    found = [at for stop in stops if (at := whole.find(stop)) >= 0]
    text = "".join(printed(whole, ends, stops))
    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    if not found:
        assert text == whole


def test_a_beginning_of_a_stop_waits_for_its_end():
    held = Held(["END"])
    assert held.released("one E") == "one "
    assert held.released("one EN") == ""
    assert held.released("one ENough") == "ENough"
    assert held.released("one ENough END more") == " "
    assert held.stopped


def test_an_unfinished_character_is_not_printed():
    held = Held([])
    assert held.released("caf\N{REPLACEMENT CHARACTER}") == "caf"
    assert held.released("café") == "é"
