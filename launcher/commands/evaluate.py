"""`hexareme evaluate`: loss and perplexity of a checkpoint on a corpus, if asked beside a bigram model of the same tokens."""

import json
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ...conf.commands_schema import Baseline, EvaluateConfig
from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ..checkpoint_path import checkpoint_path
from ..command_ranks import on_ranks
from ..environment import without_local_rank
from ..progress import progress_bar

if TYPE_CHECKING:
    from ...core.rendezvous import Device


def main(overrides: list[str]) -> int:
    """Prints a table; writes it as JSON where `output` names a file.

    Returns:
        0.

    Raises:
        ConfigError, CheckpointError, DataError: with the way out.
    """
    config = compose("evaluate", without_local_rank(overrides))
    result = measure(config, checkpoint_path(config))
    if result is None:
        return 0
    show(result)
    if config.output:
        Path(config.output).write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measure(config: EvaluateConfig, path: Path) -> dict[str, Any] | None:
    """The figures of the table by name; None on a rank that does not print."""
    result = on_ranks(config.parallel, config.cluster, partial(measure_here, config, path))
    if result is None:
        return None
    if config.baseline is Baseline.bigram:
        from ...data.bigram import kneser_ney_perplexity
        from ...data.tokens.token_file import open_corpus

        tokens = open_corpus(result["corpus"], part=result["part"])
        result["bigram_perplexity"] = kneser_ney_perplexity(open_corpus(result["bigram_corpus"]), tokens, result["vocab_size"])
    return {name: value for name, value in result.items() if name not in ("vocab_size", "bigram_corpus")} | speed_of(path)


def measure_here(config: EvaluateConfig, path: Path, device: "Device") -> dict[str, Any]:
    """The model's figures, on one of the ranks that compute them together."""
    from ...core.evaluation import Monitor, evaluate
    from ...core.evaluation_data import EACH_TOKEN, judged_source, open_judged
    from ...core.inference import first_rank_first, load_trained

    trained = load_trained(path, config.parallel, device=device)
    corpus, part = judged_source(run_of(path), trained_on=trained.corpus, corpus=config.corpus, part=config.part.value)
    judged = open_judged(corpus, part, objective=trained.objective, model=trained.sizes, document_mask=trained.document_mask,
                         first=first_rank_first)
    if config.baseline is Baseline.bigram and judged.targets != EACH_TOKEN:
        raise ConfigError([Problem("baseline", config.baseline, f"is a model of each next token, and {corpus} is judged by its "
                                   f"{judged.targets}", "leave it out")])
    with progress_bar("evaluating", shown=trained.context.rank == 0) as progress:
        found = evaluate(trained.model, judged.windows, micro_size=config.micro_size, samples=config.samples,
                         data_group=trained.context.data, document_mask=judged.document_mask, device=device,
                         monitor=Monitor(progress=progress))
    return {"checkpoint": str(trained.checkpoint.folder), "corpus": corpus, "part": part, "targets": judged.targets,
            "tokens": found.tokens, "loss": found.loss, "perplexity": found.perplexity, "vocab_size": trained.sizes.vocab_size,
            "bigram_corpus": config.corpus or trained.corpus}


def run_of(path: Path) -> Path:
    """The folder of the run that a checkpoint belongs to, by its place; the run may be elsewhere."""
    return path if (path / "checkpoints").is_dir() else path.parent.parent


def speed_of(path: Path) -> dict[str, Any]:
    """What the run behind the checkpoint measured, where its folder is at hand."""
    from ...core.metrics import read_metrics

    run = run_of(path)
    log, plot = run / "metrics.jsonl", run / "report" / "report.html"
    if not log.is_file():
        return {}
    speeds = [row["tokens_per_second"] for row in read_metrics(log) if row.get("tokens_per_second")]
    found: dict[str, Any] = {"training_tokens_per_second": median(speeds)} if speeds else {}
    return found | ({"plot": str(plot)} if plot.is_file() else {})


def show(result: dict[str, Any]) -> None:
    """The table on standard output."""
    names = {"targets": "the loss counts", "perplexity": "perplexity of the model",
             "bigram_perplexity": "perplexity of a Kneser-Ney bigram model", "training_tokens_per_second": "training, tokens/s (median)",
             "plot": "curves"}
    for key, value in result.items():
        digits = {float: ",.2f", int: ",d"}.get(type(value), "")
        print(f"{names.get(key, key):<42}{format(value, ',.4f' if key == 'loss' else digits)}")
