"""The chain of rules: what was planted is found, the report counts it exactly, and no text breaks it."""

import json
import re
import threading
import time
from html.parser import HTMLParser

import pytest
from datatrove.data import Document as LibraryDocument
from datatrove.pipeline.filters import GopherQualityFilter
from hexareme.data.clean.cleaner import TIME_LIMIT, Cleaner, Kept, Removed
from hexareme.data.clean.report import CleanReport, duplicate_rows
from hexareme.data.clean.settings import (
    C4Settings,
    CleanSettings,
    CodeSettings,
    DuplicateSettings,
    FineWebSettings,
    GopherQualitySettings,
    GopherRepetitionSettings,
    LanguageSettings,
    LengthSettings,
    NormalizeSettings,
    PiiSettings,
)
from hexareme.data.clean.time_limit import TimeLimit, time_limit
from hexareme.data.clean.words import RegexWords
from hexareme.data.sources.document import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.clean.real_text import ARTICLE_1, BOILERPLATE, document, prose, web_page

EVERYTHING = CleanSettings(
    normalize=NormalizeSettings(enabled=True),
    length=LengthSettings(enabled=True, least=100),
    language=LanguageSettings(enabled=True, keep=("en",)),
    gopher_repetition=GopherRepetitionSettings(enabled=True),
    gopher_quality=GopherQualitySettings(enabled=True),
    c4=C4Settings(enabled=True, terminal_punctuation=False),
    fineweb=FineWebSettings(enabled=True),
    pii=PiiSettings(enabled=True),
    duplicates=DuplicateSettings(exact=True, near=True),
    examples=3,
)
# Rules without thresholds that a random text fails, so that it goes through all of them.
ALL_PASS = CleanSettings(
    normalize=NormalizeSettings(enabled=True),
    gopher_repetition=GopherRepetitionSettings(enabled=True, duplicate_lines=0, duplicate_paragraphs=0, duplicate_line_characters=0,
                                               duplicate_paragraph_characters=0, top_ngrams=(9, 9, 9), duplicate_ngrams=(9,) * 6),
    gopher_quality=GopherQualitySettings(enabled=True, least_words=0, most_words=0, least_mean_word_length=0, most_mean_word_length=0,
                                         most_symbols_per_word=0, most_bullet_lines=0, most_ellipsis_lines=0, least_alphabetic_words=0,
                                         least_stop_words=0),
    c4=C4Settings(enabled=True, least_sentences=0, terminal_punctuation=False, least_words_in_line=0, longest_word=0, curly_bracket=False),
    fineweb=FineWebSettings(enabled=True, least_punctuated_lines=0, most_short_lines=1, most_duplicate_characters=1,
                            most_newlines_per_word=10**9),
    code=CodeSettings(enabled=True, longest_line=10**9, most_mean_line_length=10**9, most_lines=10**9, least_alphabetic=0),
    language=LanguageSettings(enabled=True, least_score=0),
    pii=PiiSettings(enabled=True),
)


@pytest.fixture(scope="module")
def cleaner() -> Cleaner:
    return Cleaner(EVERYTHING)


def planted() -> tuple[list[Document], dict[int, str]]:
    """Documents of real prose with planted faults, and for each line number the rule that must remove it ("": stays)."""
    made: list[Document] = []
    fate: dict[int, str] = {}

    def add(text: str, rule: str, kind: str = "text") -> None:
        made.append(document(text, kind=kind, line=len(made)))
        fate[len(made) - 1] = rule

    good = [text for text in prose() if GopherQualityFilter(language=RegexWords()).filter(LibraryDocument(text=text, id="")) is True]
    for number, text in enumerate(good[:12]):
        mail = f"{text}\n\nPlease write to ann{number}@mail.example.org about it."
        add([web_page(text), mail, f"  {text}"][number % 3], "", "text" if number % 3 else "html")
    for language in ("de", "fr", "ru"):
        add("\n".join([ARTICLE_1[language]] * 3), "language")
    add("too short", "length")
    add("\n\n".join([prose()[0]] * 4), "gopher_repetition")
    add(prose()[2] + " Lorem ipsum dolor sit amet.", "c4")
    add(prose()[4].replace(". ", ". # # # # # "), "gopher_quality")
    add("<html><body><script>1</script></body></html>", "html", "html")
    return made, fate


@pytest.fixture(scope="module")
def outcomes(cleaner) -> dict[int, Kept | Removed]:
    return {each.line: cleaner(each) for each in planted()[0]}


def test_what_was_planted_is_found(outcomes):
    _, fate = planted()
    assert {line: outcome.rule if isinstance(outcome, Removed) else "" for line, outcome in outcomes.items()} == fate
    kept = [outcome.text for outcome in outcomes.values() if isinstance(outcome, Kept)]
    assert not [text for text in kept for fault in (*BOILERPLATE, "@mail", "  ") if fault in text]
    assert sum("email@example.com" in text for text in kept) == 4


def judged(outcomes: dict[int, Kept | Removed], documents: list[Document], names: list[str]) -> CleanReport:
    report = CleanReport(names, EVERYTHING.examples)
    for each in documents:
        report.add(each, outcomes[each.line])
    return report


def test_counts_are_exact(cleaner, outcomes):
    """Beside a count that follows each rule by itself: its texts in and out, as UTF-8."""
    documents, fate = planted()
    report = judged(outcomes, documents, cleaner.names)
    texts = {each.line: each.text for each in documents}
    assert (report.documents_in, report.bytes_in) == (len(texts), sum(len(text.encode()) for text in texts.values()))
    for name, row in report.rows.items():
        assert (row.documents_in, row.bytes_in) == (len(texts), sum(len(text.encode()) for text in texts.values())), name
        steps = {line: [change for change in outcomes[line].changes if change.rule == name] for line in texts}
        assert row.changed == sum(map(len, steps.values()))
        texts = {line: steps[line][0].after if steps[line] else text for line, text in texts.items() if fate[line] != name}
        assert (row.documents_out, row.bytes_out) == (len(texts), sum(len(text.encode()) for text in texts.values())), name
        assert sum(row.details.values()) == sum(rule == name for rule in fate.values())
    kept = {line: outcome.text for line, outcome in outcomes.items() if isinstance(outcome, Kept)}
    assert kept == texts
    assert (report.documents_out, report.bytes_out) == (len(kept), sum(len(text.encode()) for text in kept.values()))
    removed = sum(row.bytes_in - row.bytes_out for row in report.rows.values())
    assert removed == report.bytes_in - report.bytes_out


@pytest.mark.parametrize("parts", [2, 5, 16])
def test_chunks_merge_to_the_same_report(cleaner, outcomes, parts: int):
    documents, _ = planted()
    whole = judged(outcomes, documents, cleaner.names)
    merged = CleanReport(cleaner.names, EVERYTHING.examples)
    for part in range(parts):
        chunk = judged(outcomes, documents[part * len(documents) // parts : (part + 1) * len(documents) // parts], cleaner.names)
        merged.merge(CleanReport.restore(json.loads(json.dumps(chunk.state()))))
    assert merged.state() == whole.state()
    assert all(len(row.changed_examples) <= 3 for row in whole.rows.values())


def test_duplicates_are_taken_out_again(cleaner, outcomes):
    documents, _ = planted()
    names = [*cleaner.names, *duplicate_rows(EVERYTHING)]
    report = judged(outcomes, documents, names)
    kept = [(each, outcome.text) for each in documents if isinstance(outcome := outcomes[each.line], Kept)]
    later = CleanReport(names, EVERYTHING.examples)  # a worker of the last pass has a fresh one
    for (each, text), rule in zip(kept, ["exact_duplicates", "near_duplicates", "exact_duplicates"], strict=False):
        later.remove(rule, document(text, line=each.line), "exact")
    report.merge(later)
    rest = [text for _, text in kept[3:]]
    assert (report.documents_out, report.bytes_out) == (len(rest), sum(len(text.encode()) for text in rest))
    rows = list(report.rows.values())
    assert [row.documents_in - row.documents_out for row in rows[-2:]] == [2, 1]
    assert [row.bytes_in for row in rows[1:]] == [row.bytes_out for row in rows[:-1]]
    assert rows[-1].bytes_out == report.bytes_out


def test_the_page_stands_alone(cleaner, outcomes, tmp_path):
    documents, _ = planted()
    report = judged(outcomes, documents, cleaner.names)
    hostile = document("<script>alert(1)</script>")
    report.add(hostile, cleaner(hostile))
    report.write(tmp_path)
    state = json.loads((tmp_path / "clean_report.json").read_text())
    assert {"documents_in", "documents_out", "rules"} <= set(state)
    assert [row["rule"] for row in state["rules"]] == cleaner.names
    text = (tmp_path / "clean_report.html").read_text()
    tags: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    reader.feed(text)
    assert tags.count("rect") == 2 * len(cleaner.names)
    assert "details" in tags
    assert "script" not in tags  # what documents say is shown, not run
    assert not re.search(r"(src|href)=", re.sub(r"<pre.*?</pre>", "", text, flags=re.S))


@settings(max_examples=60, deadline=None)
@given(text=st.text() | st.text(st.sampled_from("ab \n\x00\ud800\u2028é#….!?@-1")), kind=st.sampled_from(["text", "html", "code"]))
def test_no_text_breaks_it(both, text: str, kind: str):
    for cleaner in both:
        outcome = cleaner(document(text, kind=kind))
        assert outcome == cleaner(document(text, kind=kind))
        if isinstance(outcome, Kept):
            assert outcome.text or (kind == "text" and not text) or len(cleaner.names) == 2
            if "\ud800" not in text:
                outcome.text.encode()
        CleanReport(cleaner.names).add(document(text, kind=kind), outcome)


@pytest.fixture(scope="module")
def both(cleaner) -> list[Cleaner]:
    return [cleaner, Cleaner(ALL_PASS), Cleaner(CleanSettings())]


@pytest.mark.parametrize("size", [100_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_a_long_text_takes_bounded_time(both, size: int):
    """What makes a careless expression quadratic: 100,000 of these would then take minutes."""
    for piece, end in [("a", ""), (" ", "x"), ("a-", ""), (".", "x"), ("a-", "@"), ("[", ""), ("a@", ""), ("00 ", ""), ("&amp;", ""),
                       ("\n", ""),
                       ("é", ""), ("\u3002", ""), (".)", "x"), ("a. ", ""), ("0x", "")]:
        began = time.process_time()
        both[1](document(piece * (size // len(piece)) + end))
        assert time.process_time() - began < size / 50_000, piece


@pytest.mark.parametrize("size", [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_a_long_page_takes_bounded_time(size: int):
    for piece in ("<div>", "<p>a", "a ", "<a href=x>", "&amp;", "<table><tr><td>"):
        began = time.process_time()
        Cleaner(CleanSettings(seconds=5))(document(piece * (size // len(piece)), kind="html"))
        assert time.process_time() - began < 20, piece


def test_documents_that_take_too_long_are_removed():
    cleaner = Cleaner(CleanSettings(normalize=NormalizeSettings(enabled=True), seconds=0.05))

    class Endless:
        name = "endless"

        def __call__(self, page: object) -> str:
            while True:
                try:
                    sum(range(1000))
                except Exception:  # as trafilatura does
                    continue

    cleaner._rules.append(Endless())
    outcome = cleaner(document("Some text."))
    assert isinstance(outcome, Removed)
    assert outcome.rule == TIME_LIMIT
    report = CleanReport(cleaner.names)
    report.add(document("Some text."), outcome)
    assert report.rows[TIME_LIMIT].documents_out == 0
    sum(range(10**7))  # the timer is off again


def test_other_threads_have_no_limit_and_no_error():
    seen = []

    def work() -> None:
        with time_limit(0.001):
            sum(range(10**6))
        seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen
    with pytest.raises(TimeLimit), time_limit(0.01):
        while True:
            pass
