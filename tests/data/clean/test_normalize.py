"""Unicode and whitespace: what is repaired, and that a second time changes nothing, whatever the text."""

import unicodedata

import pytest
from hexareme.data.clean.normalize import Normalize, whitespace
from hexareme.data.clean.rule import Page
from hexareme.data.clean.settings import NormalizeSettings
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.clean.real_text import ARTICLE_1, prose

HOWS = ("keep", "trailing", "collapse")
# What texts break on, often: marks, blanks of all kinds, entities, wrong encodings, controls.
SIGNS = "aé \t\n\r\x00\x0b\x0c\x1c\x85\u00a0\u2003\u2028\u3000\ufeff\u0301\u0345&;lt#Ã©â€™‘ﬁ１\u200b\ud800\U0001f600."
AWKWARD = st.text(st.sampled_from(SIGNS))


@pytest.fixture(scope="module")
def rules() -> dict[tuple[str, str], Normalize]:
    return {(form, how): Normalize(NormalizeSettings(enabled=True, repair=False, unicode=form, whitespace=how))
            for form in ("NFC", "NFKC") for how in HOWS}


@pytest.fixture(scope="module")
def repair() -> Normalize:
    return Normalize(NormalizeSettings(enabled=True))


@pytest.mark.parametrize(("before", "after"), [
    ("cafÃ©", "café"),  # UTF-8 read as Latin-1
    ("weâ€™re", "we’re"),
    ("cafe\u0301", "café"),
    ("a\r\nb\rc", "a\nb\nc"),
    ("Tom &amp; Jerry", "Tom & Jerry"),
    ("a \t\u00a0 b  \n\n\n\n  c ", "a b\n\nc"),
    ("bell\x07\x00", "bell"),
    ("ﬁne １２", "ﬁne １２"),  # compatibility forms mean something: NFC keeps them
])
def test_what_is_made_uniform(repair, before: str, after: str):
    assert repair(Page(before)) == after


def test_code_keeps_its_indentation():
    rule = Normalize(NormalizeSettings(enabled=True, repair=False, whitespace="trailing"))
    assert rule(Page("if a:  \r\n\tb &lt; 1 \n\n\n\n    c\n\n")) == "if a:\n\tb &lt; 1\n\n\n    c"


def test_what_is_uniform_already_stays_the_same_object(repair):
    text = "Nothing to do here.\n\nNor here: é."
    assert repair(Page(text)) is text


@settings(max_examples=150, deadline=None)
@given(text=AWKWARD | st.text())
def test_twice_is_once(rules, text: str):
    for (form, how), rule in rules.items():
        once = rule(Page(text))
        assert rule(Page(once)) == once, (form, how)
        assert unicodedata.is_normalized(form, once)


@pytest.mark.parametrize("text", [*ARTICLE_1.values(), prose()[0]])
def test_a_repair_leaves_good_text_alone(repair, text: str):
    assert repair(Page(text)) is text or repair(Page(text)) == unicodedata.normalize("NFC", text)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from(SIGNS.replace("\ud800", ""))) | st.text())
def test_a_repair_never_fails_and_breaks_nothing(repair, text: str):
    repair(Page(text)).encode()


@given(text=AWKWARD | st.text())
def test_only_blanks_go(text: str):
    assert whitespace(text, "keep") == text
    for how in HOWS:
        done = whitespace(text, how)
        assert "".join(done.split()) == "".join(text.split())
        if how != "keep":
            assert "\r" not in done
            assert not any(line != line.rstrip() for line in done.split("\n"))
    assert "  " not in whitespace(text, "collapse")
    assert "\n\n\n" not in whitespace(text, "collapse")
