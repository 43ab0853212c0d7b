"""What cleaning did: documents and bytes in and out for each rule, and examples. Results of chunks merge into one."""

import heapq
import json
from bisect import insort
from dataclasses import asdict, dataclass, field, fields
from os.path import commonprefix
from pathlib import Path
from typing import Any

from ..hashes import document_hash
from .cleaner import Kept, Removed, Source, utf8_bytes
from .report_page import page
from .settings import CleanSettings

EXACT_DUPLICATES, NEAR_DUPLICATES = "exact_duplicates", "near_duplicates"
_SHOWN = 400  # characters of an example
_AROUND = 60  # characters shown before the first difference


@dataclass(frozen=True, order=True)
class Example:
    """A document that a rule removed or changed; the smallest hashes are kept, so that it does not depend on workers.

    Args:
        hash: of the document as it came in, 16 hexadecimal digits.
        file, line: where it came from.
        detail: of a removed one, which condition failed; of a changed one "changed".
        before, after: parts of its text around the first difference; after is empty for a removed one.
    """

    hash: str
    file: str
    line: int
    detail: str
    before: str
    after: str = ""


@dataclass
class Row:
    """One rule. Bytes are of UTF-8; `bytes_out` counts what goes on to the next rule."""

    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    changed: int = 0
    details: dict[str, int] = field(default_factory=dict)
    removed_examples: list[Example] = field(default_factory=list)
    changed_examples: list[Example] = field(default_factory=list)

    def count(self, detail: str) -> None:
        """One more removed document; what follows a colon is about this document only."""
        kind = detail.partition(": ")[0]
        self.details[kind] = self.details.get(kind, 0) + 1

    def merge(self, other: "Row", examples: int) -> None:
        """Joins the counts of a later chunk."""
        self.documents_in += other.documents_in
        self.documents_out += other.documents_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.changed += other.changed
        for detail, count in other.details.items():
            self.details[detail] = self.details.get(detail, 0) + count
        self.removed_examples = heapq.nsmallest(examples, self.removed_examples + other.removed_examples)
        self.changed_examples = heapq.nsmallest(examples, self.changed_examples + other.changed_examples)


def duplicate_rows(settings: CleanSettings) -> list[str]:
    """The rows of what is known only when the whole corpus was seen."""
    sought = {EXACT_DUPLICATES: settings.duplicates.exact, NEAR_DUPLICATES: settings.duplicates.near}
    return [name for name, wanted in sought.items() if wanted]


class CleanReport:
    """Counts of one chunk, of several, or of the whole corpus.

    Args:
        names: of the rules in their order; a rule that removed nothing keeps its row. `Cleaner.names`, then `duplicate_rows(settings)`.
        examples: kept for each rule and kind.
    """

    def __init__(self, names: list[str], examples: int = 5) -> None:
        self.rows: dict[str, Row] = {name: Row() for name in names}
        self.examples = examples
        self.documents_in = self.documents_out = 0
        self.bytes_in = self.bytes_out = 0

    def add(self, document: Source, outcome: Kept | Removed) -> None:
        """Counts what the Cleaner made of a document."""
        size = utf8_bytes(document.text)
        self.documents_in += 1
        self.bytes_in += size
        changes = {change.rule: change for change in outcome.changes}
        gone = outcome.rule if isinstance(outcome, Removed) else ""
        for name, row in self.rows.items():
            row.documents_in += 1
            row.bytes_in += size
            if change := changes.get(name):
                row.changed += 1
                size = utf8_bytes(change.after)
                self._keep(row.changed_examples, document, "changed", _difference(change.before, change.after))
            if name == gone:
                assert isinstance(outcome, Removed)
                row.count(outcome.detail)
                self._keep(row.removed_examples, document, outcome.detail, (outcome.text[:_SHOWN], ""))
                return
            row.documents_out += 1
            row.bytes_out += size
        self.documents_out += 1
        self.bytes_out += utf8_bytes(outcome.text)

    def remove(self, rule: str, document: Source, detail: str) -> None:
        """Takes a document out again that `add` counted as kept: a duplicate, which is known only when all were seen.

        Args:
            rule: its row.
            document: its text is the cleaned one.
            detail: why.
        """
        size = utf8_bytes(document.text)
        names = list(self.rows)
        for later in names[names.index(rule) + 1 :]:
            self.rows[later].documents_in -= 1
            self.rows[later].bytes_in -= size
        for row in [self.rows[name] for name in names[names.index(rule) :]]:
            row.documents_out -= 1
            row.bytes_out -= size
        self.documents_out -= 1
        self.bytes_out -= size
        row = self.rows[rule]
        row.count(detail)
        self._keep(row.removed_examples, document, detail, (document.text[:_SHOWN], ""))

    def merge(self, other: "CleanReport") -> None:
        """Joins the report of a later chunk; its rules are the same."""
        assert list(self.rows) == list(other.rows)
        self.documents_in += other.documents_in
        self.documents_out += other.documents_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for name, row in self.rows.items():
            row.merge(other.rows[name], self.examples)

    def state(self) -> dict[str, Any]:
        """For JSON: `restore` reads it back, and so do `clean_report.json`'s readers."""
        rules = [{"rule": name, **asdict(row), "documents_removed": row.documents_in - row.documents_out,
                  "bytes_removed": row.bytes_in - row.bytes_out} for name, row in self.rows.items()]
        return {"documents_in": self.documents_in, "documents_out": self.documents_out, "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out, "examples": self.examples, "rules": rules}

    @classmethod
    def restore(cls, saved: dict[str, Any]) -> "CleanReport":
        """What `state` gave."""
        report = cls([entry["rule"] for entry in saved["rules"]], saved["examples"])
        report.documents_in, report.documents_out = saved["documents_in"], saved["documents_out"]
        report.bytes_in, report.bytes_out = saved["bytes_in"], saved["bytes_out"]
        for entry in saved["rules"]:
            plain = {key.name: entry[key.name] for key in fields(Row)}
            for examples in ("removed_examples", "changed_examples"):
                plain[examples] = [Example(**example) for example in entry[examples]]
            report.rows[entry["rule"]] = Row(**plain)
        return report

    def write(self, folder: Path) -> None:
        """Writes `clean_report.json`, and `clean_report.html` beside it for people."""
        state = self.state()
        (folder / "clean_report.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        # names of files may hold bytes that are no UTF-8
        (folder / "clean_report.html").write_text(page(state), encoding="utf-8", errors="backslashreplace")

    def _keep(self, examples: list[Example], document: Source, detail: str, texts: tuple[str, str]) -> None:
        if not self.examples:
            return
        key = f"{document_hash(document.text.encode(errors='surrogatepass')):016x}"
        if len(examples) < self.examples or key <= examples[-1].hash:
            insort(examples, Example(key, document.file, document.line, detail, texts[0], texts[1]))
            del examples[self.examples :]


def _difference(before: str, after: str) -> tuple[str, str]:
    """Both texts around their first difference."""
    first = len(commonprefix([before, after]))
    start = max(0, first - _AROUND)
    return before[start : start + _SHOWN], after[start : start + _SHOWN]
