"""`hexareme inspect corpus=...`: counts, lengths, samples, hashes; and `preview=`: tokens in colour with their loss mask."""

from typing import TYPE_CHECKING, Any

from ..conf.checkpoint_commands_schema import InspectConfig
from ..core.explain_lines import raw_place
from .progress import progress_bar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ..data.finetune.preview import Piece

BAR = 40  # characters
SHADES = {True: ("bold black on green", "bold black on bright_green"), False: ("default", "grey62")}  # two: borders of tokens show
SPECIAL = {True: "bold black on yellow", False: "yellow"}


def of_corpus(config: InspectConfig) -> dict[str, Any]:
    """Prints what a corpus holds and what is wrong with it; with preview=, samples token by token instead of the counts.

    Raises:
        DataError: there is nothing to look at.
    """
    from rich.console import Console

    from ..core.corpus_summary import describe_corpus, total_bytes

    console = Console(soft_wrap=True)
    if config.preview:
        return preview(config, console)
    total, done = total_bytes(config.corpus), 0
    with progress_bar("checking") as progress:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(min(done, total), total)

        described = describe_corpus(config.corpus, tick)
    console.print("\n".join(lines(described)), highlight=False, markup=False)
    return described


def lines(described: dict[str, Any]) -> list[str]:
    """The description for people."""
    found = [f"{described['corpus']}: {kind}" for kind in [described.get("task", {}).get("kind", "token files")]]
    if tokenizer := described.get("tokenizer"):
        end = tokenizer["end_of_document"]
        found.append(f"tokenizer {tokenizer['kind']}, vocabulary {tokenizer['vocab_size']:,}, end of document {end}")
    if labels := described.get("task", {}).get("labels"):
        found.append(f"{len(labels)} classes: {', '.join(map(str, labels[:20]))}")
    for part, facts in described.get("parts", {}).items():
        found += ["", *part_lines(part, facts)]
    for sample in described.get("samples", []):
        place = f" ({raw_place(sample['file'], sample['line'])})" if sample["file"] else ""
        found += ["", f"document {sample['document']}{place}: {sample['text']!r}"]
    if report := described.get("clean_report"):
        found += ["", *clean_lines(report)]
    return [*found, "", verdict(described["findings"])]


def part_lines(part: str, facts: dict[str, Any]) -> list[str]:
    """Counts, lengths and their histogram."""
    counts = f"{part}: {facts['documents']:,} documents, {facts['tokens']:,} tokens ({facts['dtype']}), largest id {facts['largest_id']:,}"
    found = [counts]
    if "rows" in facts:
        found.append(f"  {facts['rows']:,} rows, {100 * facts['filled']:.1f} % filled")
    if "learned_tokens" in facts:
        found.append(f"  {facts['learned_tokens']:,} tokens learned, {100 * facts['learned_tokens'] / max(1, facts['tokens']):.1f} %")
    for entry in facts.get("classes", [])[:20]:
        found.append(f"  {entry['label']!s:>20} {entry['documents']:,}")
    if "lengths" in facts:
        lengths = facts["lengths"]
        percentiles = ", ".join(f"{p} %: {value:,}" for p, value in lengths["percentiles"].items())
        found.append(f"  tokens of a document: mean {lengths['mean']:,.1f}, {lengths['least']:,} to {lengths['most']:,}; {percentiles}")
        most = max(row["documents"] for row in facts["histogram"])
        found += [f"  {row['from']:>11,} to {row['to']:<11,} {'█' * -(-BAR * row['documents'] // most):<{BAR}} {row['documents']:,}"
                  for row in facts["histogram"]]
    return found


def clean_lines(report: dict[str, Any]) -> list[str]:
    """What each rule removed."""
    found = [f"cleaning: {report.get('documents_in', 0):,} documents in, {report.get('documents_out', 0):,} out"]
    for row in report.get("rules", []):
        removed = f"{row.get('documents_removed', 0):>11,} documents {row.get('bytes_removed', 0):>15,} bytes removed"
        found.append(f"  {row.get('rule', ''):<24} {removed}, {row.get('changed', 0):,} changed")
    return found


def verdict(findings: list[str]) -> str:
    """The last lines."""
    if findings:
        return "\n".join([f"{len(findings)} findings:", *(f"  {each}" for each in findings)])
    return "whole: every block was read and checked"


def preview(config: InspectConfig, console: "Console") -> dict[str, Any]:
    """Prints samples token by token: learned ones on green, special ones in yellow; without colours learned ones stand in « »."""
    from ..data.finetune.preview import as_plain, previews

    found = previews(config.corpus, config.preview)
    coloured = console.is_terminal and not console.no_color
    for each in found:
        console.rule(each.title) if coloured else console.print(f"=== {each.title}", markup=False, highlight=False)
        for shown in each.examples:
            console.print(f"--- {shown.title}", style="cyan", markup=False, highlight=False)
            console.print(in_colour(shown.pieces) if coloured else marked(shown.pieces), markup=False, highlight=False)
    legend = "learned on green, special tokens in yellow" if coloured else "learned tokens stand in « », | parts tokens"
    console.print(legend, style="dim", markup=False, highlight=False)
    return {"corpus": config.corpus, "previews": [as_plain(each) for each in found], "findings": []}


def in_colour(pieces: "list[Piece]") -> "Text":
    """Tokens in turning shades."""
    from rich.text import Text

    text = Text()
    for number, piece in enumerate(pieces):
        style = SPECIAL[piece.learned] if piece.special else SHADES[piece.learned][number % 2]
        text.append(visible(piece.text), style)
    return text


def marked(pieces: "list[Piece]") -> str:
    """The same without colours."""
    parts, learned = [], False
    for number, piece in enumerate(pieces):
        border = "«" if piece.learned and not learned else "»" if learned and not piece.learned else "|" if number else ""
        parts += [border, visible(piece.text)]
        learned = piece.learned
    return "".join([*parts, "»" if learned else ""])


def visible(text: str) -> str:
    """A line feed shows; other control characters cannot play with the terminal."""
    return "".join("⏎\n" if c == "\n" else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
