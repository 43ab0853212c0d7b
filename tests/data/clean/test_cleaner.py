"""The chain of rules: what was planted is found, the report counts it exactly, and no text breaks it."""

import json
import re
import threading
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hexareme.data.clean.cleaner import TIME_LIMIT, Cleaner, Kept, Removed
from hexareme.data.clean.report import CleanReport, duplicate_rows
from hexareme.data.clean.settings import CleanSettings, NormalizeSettings
from hexareme.data.clean.time_limit import TimeLimit, time_limit
from hexareme.data.sources.document import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.clean.chains import ALL_PASS, EMAIL, EVERYTHING, faults, kept_by_gopher, planted
from tests.data.clean.real_text import BOILERPLATE, document, prose

CHAIN = ["html", "normalize", "length", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "pii"]


@pytest.fixture(scope="module")
def cleaner() -> Cleaner:
    return Cleaner(EVERYTHING)


@pytest.fixture(scope="module")
def outcomes(cleaner) -> dict[int, Kept | Removed]:
    return {each.line: cleaner(each) for each in planted()[0]}


def test_what_was_planted_is_found(outcomes):
    _, fate = planted()
    assert {line: outcome.rule if isinstance(outcome, Removed) else "" for line, outcome in outcomes.items()} == fate
    kept = [outcome.text for outcome in outcomes.values() if isinstance(outcome, Kept)]
    assert not [text for text in kept for fault in (*BOILERPLATE, "@mail", "  ") if fault in text]
    assert sum("email@example.com" in text for text in kept) == sum(kept_by_gopher()[1::3])


def judged(outcomes: dict[int, Kept | Removed], documents: list[Document], names: list[str]) -> CleanReport:
    report = CleanReport(names, EVERYTHING.examples)
    for each in documents:
        report.add(each, outcomes[each.line])
    return report


def counted(texts: dict[int, str]) -> tuple[int, int]:
    return len(texts), sum(len(text.encode()) for text in texts.values())


def test_counts_are_exact(cleaner, outcomes):
    """Recounted without what the chain tells: each rule alone is given the texts that the one before it left, and texts are counted."""
    documents, _ = planted()
    report = judged(outcomes, documents, cleaner.names)
    texts = {each.line: each.text for each in documents}
    assert (report.documents_in, report.bytes_in) == counted(texts)
    assert [*report.rows] == [*CHAIN, TIME_LIMIT]
    for name in CHAIN:
        alone = Cleaner(CleanSettings() if name == "html" else replace(CleanSettings(), **{name: getattr(EVERYTHING, name)}))
        kinds = {each.line: each.kind if name == "html" else "text" for each in documents}
        found = {line: alone(document(text, kind=kinds[line])) for line, text in texts.items()}
        left = {line: outcome.text for line, outcome in found.items() if isinstance(outcome, Kept)}
        row = report.rows[name]
        assert (row.documents_in, row.bytes_in) == counted(texts), name
        assert (row.documents_out, row.bytes_out) == counted(left), name
        assert row.changed == sum(text != texts[line] for line, text in left.items()), name
        assert sum(row.details.values()) == len(texts) - len(left), name
        texts = left
    assert (report.documents_out, report.bytes_out) == counted(texts)
    assert (report.rows[TIME_LIMIT].documents_in, report.rows[TIME_LIMIT].documents_out) == (len(texts), len(texts))
    assert sum(row.bytes_in - row.bytes_out for row in report.rows.values()) == report.bytes_in - report.bytes_out


def test_counts_are_those_of_what_was_planted(cleaner, outcomes):
    """By arithmetic on the faults; only the text of a web page is the library's to say."""
    documents, _ = planted()
    rows = judged(outcomes, documents, cleaner.names).rows
    good, bad, pages = kept_by_gopher(), faults(), len(prose()[::3])
    gone = Counter(rule for rule, _, _ in bad) + Counter(gopher_quality=good.count(False))
    assert {name: row.documents_in - row.documents_out for name, row in rows.items() if row.details} == gone
    assert (rows["html"].documents_in, rows["html"].changed) == (len(good) + len(bad), pages)
    # two blanks before each third text
    assert (rows["normalize"].changed, rows["normalize"].bytes_in - rows["normalize"].bytes_out) == (len(good[2::3]), 2 * len(good[2::3]))
    for name in ("length", "language", "gopher_repetition"):
        lost = sum(len(text.encode()) for rule, text, _ in bad if rule == name)
        assert (rows[name].bytes_in - rows[name].bytes_out, rows[name].changed) == (lost, 0), name
    mails = sum(good[1::3])  # of those that Gopher's filter left
    shorter = len(EMAIL.format(0)) - len("email@example.com")
    assert (rows["pii"].changed, rows["pii"].bytes_in - rows["pii"].bytes_out) == (mails, shorter * mails)


def test_good_prose_that_the_rules_lose(cleaner):
    """Of plain good texts, only Gopher's filter loses any, and only for its part of alphabetic words: technical text has many others."""
    found = [cleaner(document(text)) for text in prose()]
    lost = [(outcome.rule, outcome.detail) for outcome in found if isinstance(outcome, Removed)]
    assert set(lost) <= {("gopher_quality", "below_alpha_threshold")}
    assert len(lost) == kept_by_gopher().count(False) <= 0.3 * len(found)


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
