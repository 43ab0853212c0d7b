"""A careless expression takes quadratic time over a long run of one thing: minutes for what is here. Each rule alone, and whole pages."""

import time
from itertools import product

import pytest
from hexareme.data.clean.bad_words import BadWords
from hexareme.data.clean.cleaner import TIME_LIMIT, Cleaner, Kept, Removed
from hexareme.data.clean.decontamination import Decontamination
from hexareme.data.clean.normalize import Normalize
from hexareme.data.clean.rule import Page, Refused, Rule
from hexareme.data.clean.rules import rules_of
from hexareme.data.clean.settings import BadWordsSettings, CleanSettings, DecontaminationSettings, NormalizeSettings
from hexareme.data.clean.time_limit import TimeLimit, time_limit

from tests.data.clean.chains import ALL_PASS
from tests.data.clean.real_text import ARTICLE_1, document

PIECES = ["a", "é", " ", "a ", "\n", "a\n", "a\n\n", "a-", "a'", "a.", "a. ", "A. b\n", ".", "...", ".)", "\u3002", "[", "[1]", "@", "a@",
          "a@b.", "1.", "1.1.1.1 ", "00 ", "0x", "\\u", "&amp;", "# ", "- "]
ENDS = ["x", "@x"]  # the second for expressions that are only tried where there is an @
# Refused by what a rule sees first. All others go through the rule to its end, or the time would say nothing.
EARLY = {"code": {"encoded_data"}, "c4": {"too_few_sentences"}}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rule]:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "words.txt").write_text("aaaaab\n. .b\n")
    (folder / "evaluation.txt").write_text(ARTICLE_1["en"])
    more = [BadWords(BadWordsSettings(file=str(folder / "words.txt"))),
            Decontamination(DecontaminationSettings(files=(str(folder / "evaluation.txt"),), ngram=13))]
    lines = Normalize(NormalizeSettings(enabled=True, whitespace="trailing"))
    return {**{rule.name: rule for rule in [*rules_of(ALL_PASS), *more]}, "normalize_lines": lines}


NAMES = ["normalize", "language", "code", "gopher_repetition", "gopher_quality", "c4", "fineweb", "pii", "bad_words", "decontamination",
         "normalize_lines"]


@pytest.mark.parametrize("size", [50_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", NAMES)
def test_each_rule_takes_linear_time(rules: dict[str, Rule], name: str, size: int):
    for piece, end in product(PIECES, ENDS if name == "pii" else ENDS[:1]):
        text = piece * (size // len(piece)) + end
        began = time.process_time()
        try:
            with time_limit(size / 50_000):
                outcome = rules[name](Page(text))
        except TimeLimit:
            pytest.fail(f"{name} takes more than {time.process_time() - began:.1f} s for {size} characters of {piece!r}, {end}")
        assert time.process_time() - began < size / 25_000, piece  # the limit itself has other tests
        assert not isinstance(outcome, Refused) or outcome.detail in EARLY.get(name, set()), (piece, outcome)


def test_every_rule_on_texts_is_here(rules: dict[str, Rule]):
    assert [*rules] == NAMES


@pytest.mark.parametrize("size", [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("piece", ["<div>", "<p>a", "a ", "<a href=x>", "&amp;", "<table><tr><td>"])
def test_a_page_ends_at_its_limit(piece: str, size: int):
    """lxml cannot be stopped inside one of its calls, so it ends a little later."""
    cleaner = Cleaner(CleanSettings(seconds=3))
    cleaner(document("<p>A first page loads the library.</p>" * 9, kind="html"))
    began = time.process_time()
    outcome = cleaner(document(piece * (size // len(piece)), kind="html"))
    assert time.process_time() - began < 3 + size / 100_000
    assert isinstance(outcome, Kept) or outcome.rule in ("html", TIME_LIMIT)
    assert not isinstance(outcome, Removed) or size > 20_000 or outcome.rule != TIME_LIMIT
