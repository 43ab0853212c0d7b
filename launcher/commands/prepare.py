"""`hexareme prepare input=... output=...`: raw text to a corpus folder."""

from typing import TYPE_CHECKING, Any

from ...conf.errors import ConfigError, Problem

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ...conf.prepare_schema import PrepareConfig
    from ...data.clean.report import CleanReport
    from ...data.prepare.prepare import Prepared, Recipe
    from ..prepare_progress import Meter


def main(overrides: list[str]) -> int:
    """Make the corpus, then say what it holds and what to do with it.

    Returns:
        0.

    Raises:
        ConfigError: the settings cannot be.
        DataError: the input cannot be used.
    """
    from rich.console import Console

    from ...conf.compose import compose
    from ...data.prepare.prepare import prepare
    from ..prepare_progress import PrepareProgress
    from ..prepare_task import prepare_examples

    config: PrepareConfig = compose("prepare", overrides)
    if found := problems(config):
        raise ConfigError(found)
    if config.task.kind != "text":
        return prepare_examples(config)
    with PrepareProgress(Console(stderr=True)) as progress:
        prepared = prepare(
            entries(config.input),
            config.output,
            recipe(config),
            workers=config.workers,
            overwrite=config.overwrite,
            progress=progress,
        )
    show(prepared, progress.meter, Console())
    return 0


def problems(config: "PrepareConfig") -> list[Problem]:
    """What the schema alone cannot refuse."""
    from ...core.cleaning import problems as cleaning_problems

    found = [] if config.task.kind != "text" else list(cleaning_problems(config.clean))
    inputs = entries(config.input)
    if not inputs or not all(isinstance(entry, str | dict) and entry for entry in inputs):
        message = "must be a file, a folder or a glob, or a list of these and of {path: a.dump, format: jsonl}"
        found.append(Problem("input", config.input, message, "write it as in input='[a.txt,logs/**/*.jsonl]'"))
    existing = config.tokenizer.kind in ("huggingface", "sentencepiece_file")
    if existing and not config.tokenizer.path:
        message = f"is empty, and tokenizer.kind={config.tokenizer.kind} reads an existing tokenizer"
        found.append(Problem("tokenizer.path", "", message, "set it to a tokenizer.json, its folder or a SentencePiece .model"))
    if not existing and config.tokenizer.path:
        message = f"is given, but tokenizer.kind={config.tokenizer.kind} trains a new tokenizer"
        found.append(Problem("tokenizer.path", config.tokenizer.path, message, "set tokenizer.kind=huggingface or sentencepiece_file"))
    return found


def entries(given: Any) -> list[Any]:
    """`input`, as a list."""
    return given if isinstance(given, list) else [given]


def recipe(config: "PrepareConfig") -> "Recipe":
    """The settings that decide the bytes of the corpus."""
    from ...core.cleaning import settings_of
    from ...data.prepare.prepare import Recipe

    return Recipe(
        tokenizer_kind=config.tokenizer.kind.value,
        tokenizer_path=config.tokenizer.path,
        vocab_size=config.tokenizer.vocab_size,
        special_tokens=tuple(config.tokenizer.special_tokens),
        lowercase=config.tokenizer.lowercase,
        text_key=config.text_key,
        held_out=config.held_out,
        reject_limit=config.reject_limit,
        clean=settings_of(config.clean),
    )


def show(prepared: "Prepared", meter: "Meter", console: "Console") -> None:
    """Prints what the corpus holds, and the command that trains on it."""
    from rich.table import Table

    parts, tally = prepared.description.parts, prepared.tally
    tokens = sum(part.tokens for part in parts.values())
    table = Table("part", "documents", "tokens", "largest id", box=None, title_justify="left")
    for name, part in parts.items():
        table.add_row(name, f"{part.documents:,}", f"{part.tokens:,}", f"{part.largest_id:,}")
    if prepared.reused:
        console.print(f"{prepared.folder} is this corpus already; nothing to do", highlight=False)
    console.print(table)
    if prepared.report:
        console.print(cleaning_table(prepared.report))
        console.print(f"examples of each rule: {prepared.folder / 'clean_report.html'}", highlight=False, soft_wrap=True)
    tokenizer = prepared.description.tokenizer
    facts = [f"vocabulary {tokenizer.vocab_size:,} ({tokenizer.kind})", f"{tally.text_bytes / tokens:.3f} bytes/token"]
    if not prepared.reused:
        facts.append(f"{meter.rate:.1f} MB/s")
    facts += [f"{tally.empty:,} empty" if tally.empty else "", f"{tally.rejected:,} rejected, see rejects.jsonl" if tally.rejected else ""]
    console.print(", ".join(filter(None, facts)), highlight=False)
    console.print(f"corpus: {prepared.folder}\nnext:   hexareme train data.train={prepared.folder}", highlight=False, soft_wrap=True)


def cleaning_table(report: "CleanReport") -> "Table":
    """What each rule removed and changed."""
    from rich.table import Table

    table = Table("cleaning rule", box=None)
    for name in ("documents in", "removed", "of all", "changed", "bytes removed"):
        table.add_column(name, justify="right")
    for name, row in report.rows.items():
        removed = row.documents_in - row.documents_out
        part = f"{removed / report.documents_in:.1%}" if report.documents_in else ""
        table.add_row(name, f"{row.documents_in:,}", f"{removed:,}", part, f"{row.changed:,}", f"{row.bytes_in - row.bytes_out:,}")
    left, size = f"{report.documents_in - report.documents_out:,}", f"{report.bytes_in - report.bytes_out:,}"
    table.add_row("all", f"{report.documents_in:,}", left, f"{1 - report.documents_out / max(1, report.documents_in):.1%}", "", size)
    return table
