"""`hexareme evaluate`: loss and perplexity of a checkpoint on a corpus, if asked beside a bigram model of the same tokens."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from ...conf.commands_schema import Baseline, EvaluateConfig
from ...conf.compose import compose
from ..checkpoint_path import checkpoint_path
from ..progress import progress_bar


def main(overrides: list[str]) -> int:
    """Prints a table; writes it as JSON where `output` names a file.

    Returns:
        0.

    Raises:
        ConfigError, CheckpointError, DataError: with the way out.
    """
    config = compose("evaluate", overrides)
    path = checkpoint_path(config)
    result = measure(config, path)
    show(result)
    if config.output:
        Path(config.output).write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measure(config: EvaluateConfig, path: Path) -> dict[str, Any]:
    """The figures of the table by name."""
    from ...core.evaluation import evaluate
    from ...core.inference import alone, load_trained
    from ...data.dataset import ValidationSet
    from ...data.token_file import open_corpus

    with alone() as groups:
        trained = load_trained(path, groups=groups)
        corpus, sizes = config.corpus or trained.corpus, trained.model.transformer.config
        tokens = open_corpus(corpus, part=config.part.value)
        windows = ValidationSet(tokens, sequence_length=sizes.sequence_length, document_mask=trained.document_mask,
                                vocab_size=sizes.vocab_size)
        with progress_bar("evaluating") as progress:
            found = evaluate(trained.model, windows, micro_size=config.micro_size, samples=config.samples, data_group=groups.context,
                             document_mask=trained.document_mask, device=trained.device, progress=progress)
    result: dict[str, Any] = {"checkpoint": str(trained.checkpoint.folder), "corpus": corpus, "part": config.part.value,
                              "tokens": found.tokens, "loss": found.loss, "perplexity": found.perplexity}
    if config.baseline is Baseline.bigram:
        from ...data.bigram import kneser_ney_perplexity

        result["bigram_perplexity"] = kneser_ney_perplexity(open_corpus(corpus), tokens, sizes.vocab_size)
    return result | speed_of(path)


def speed_of(path: Path) -> dict[str, Any]:
    """What the run behind the checkpoint measured, where its folder is at hand."""
    from ...core.metrics import read_metrics

    run = path if (path / "checkpoints").is_dir() else path.parent.parent
    log, plot = run / "metrics.jsonl", run / "report" / "report.html"
    if not log.is_file():
        return {}
    speeds = [row["tokens_per_second"] for row in read_metrics(log) if row.get("tokens_per_second")]
    found: dict[str, Any] = {"training_tokens_per_second": median(speeds)} if speeds else {}
    return found | ({"plot": str(plot)} if plot.is_file() else {})


def show(result: dict[str, Any]) -> None:
    """The table on standard output."""
    names = {"perplexity": "perplexity of the model", "bigram_perplexity": "perplexity of a Kneser-Ney bigram model",
             "training_tokens_per_second": "training, tokens/s (median)", "plot": "curves"}
    for key, value in result.items():
        digits = {float: ",.2f", int: ",d"}.get(type(value), "")
        print(f"{names.get(key, key):<42}{format(value, ',.4f' if key == 'loss' else digits)}")
