"""`hexareme prepare task=...`: fine-tuning records to a corpus folder."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ..conf.errors import ConfigError, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from ..conf.prepare_schema import PrepareConfig
    from ..data.finetune.prepare import PreparedTask
    from ..data.finetune.settings import TaskRecipe


def prepare_examples(config: "PrepareConfig") -> int:
    """Makes the corpus, then says what it holds and what to do with it.

    Returns:
        0.

    Raises:
        ConfigError: the settings cannot be.
        DataError: the input cannot be used.
    """
    from rich.console import Console

    from ..data.finetune.prepare import prepare_task
    from .prepare_progress import PrepareProgress

    if found := task_problems(config):
        raise ConfigError(found)
    with PrepareProgress(Console(stderr=True)) as progress:
        prepared = prepare_task(config.input if isinstance(config.input, list) else [config.input], config.output, task_recipe(config),
                                workers=config.workers, overwrite=config.overwrite, progress=progress)
    show(prepared, Console())
    return 0


def task_problems(config: "PrepareConfig") -> list[Problem]:
    """What the schema alone cannot refuse of examples."""
    from ..data.finetune.builtin_templates import BUILT_IN

    found, task = [], config.task
    if config.tokenizer.kind not in ("huggingface", "sentencepiece_file"):
        way = "set tokenizer.kind=huggingface (or sentencepiece_file) and tokenizer.path to the model's tokenizer or to a corpus folder"
        message = f"trains a tokenizer, and task={task.kind} is for a trained model"
        found.append(Problem("tokenizer.kind", config.tokenizer.kind, message, way))
    if config.clean.name != "none":
        found.append(Problem("clean", config.clean.name, f"is for text, not for task={task.kind}", "set clean=none"))
    if task.template not in ("tokenizer", *BUILT_IN) and not Path(task.template).expanduser().is_file():
        choices = ", ".join(("tokenizer", *BUILT_IN))
        found.append(Problem("task.template", task.template, "is no file and no template's name", f"take {choices}, or a Jinja file"))
    try:
        date.fromisoformat(task.date or "2000-01-01")
    except ValueError:
        found.append(Problem("task.date", task.date, "is no date", "write it as in 2025-01-31"))
    return found


def task_recipe(config: "PrepareConfig") -> "TaskRecipe":
    """The settings that decide the bytes of the corpus."""
    from ..data.finetune.settings import TaskRecipe

    task = config.task
    return TaskRecipe(
        kind=task.kind.value, tokenizer_kind=config.tokenizer.kind.value, tokenizer_path=config.tokenizer.path,
        special_tokens=tuple(config.tokenizer.special_tokens), template=task.template,
        last_only=task.loss == "last", sequence_length=task.sequence_length, overlong=task.overlong.value, text_key=config.text_key,
        label_key=task.label_key, stratified=task.stratified, today=task.date, held_out=config.held_out, reject_limit=config.reject_limit,
    )


def show(prepared: "PreparedTask", console: "Console") -> None:
    """Prints what the corpus holds, what became of long examples, and the command that trains on it."""
    from rich.table import Table

    task, tally = prepared.description.task, prepared.tally
    table = Table("part", "examples", "tokens", "rows", "filled", "largest id", box=None)
    for name, part in prepared.description.parts.items():
        rows = f"{part.arrays['rows'].count - 1:,}" if "rows" in part.arrays else ""
        filled = f"{100 * prepared.filled[name]:.1f} %" if name in prepared.filled else ""
        examples = part.documents // 2 if task.kind == "preference" else part.documents
        table.add_row(name, f"{examples:,}", f"{part.tokens:,}", rows, filled, f"{part.largest_id:,}")
    if prepared.reused:
        console.print(f"{prepared.folder} is this corpus already; nothing to do", highlight=False)
    console.print(table)
    facts = [f"{prepared.fates.get('cut', 0):,} cut and {prepared.fates.get('dropped', 0):,} dropped of {task.sequence_length} tokens"]
    facts += [f"classes: {', '.join(map(str, task.labels[:20]))}"] if task.labels else []
    facts += [f"{tally.rejected:,} rejected, see rejects.jsonl"] if tally.rejected else []
    console.print("; ".join(facts), highlight=False, soft_wrap=True)
    look = f"hexareme inspect corpus={prepared.folder} preview=3"
    console.print(f"corpus: {prepared.folder}\nlook:   {look}", highlight=False, soft_wrap=True)
    if task.kind == "chat":
        train = f"next:   hexareme train data.train={prepared.folder} model.sequence_length={task.sequence_length}"
        console.print(train, highlight=False, soft_wrap=True)
