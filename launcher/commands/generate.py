"""`hexareme generate`: text from a checkpoint, printed as it comes."""

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...conf.commands_schema import GenerateConfig
from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ...data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from ..checkpoint_path import checkpoint_path
from ..command_ranks import on_ranks
from ..environment import without_local_rank

if TYPE_CHECKING:
    from ...core.model.transformer import Transformer
    from ...core.relay import Pipeline
    from ...core.rendezvous import Device

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a character looks like whose last bytes are still to come


def main(overrides: list[str]) -> int:
    """Prints the prompt and its continuation.

    Returns:
        0.

    Raises:
        ConfigError, CheckpointError, DataError: with the way out.
    """
    config = compose("generate", without_local_rank(overrides))
    path = checkpoint_path(config)
    if config.parallel.cp > 1:
        raise ConfigError([Problem("parallel.cp", config.parallel.cp, "cuts a sequence over ranks, and a text grows by one token at a time",
                                   f"set parallel.cp=1; parallel.tp={config.parallel.cp} or parallel.pp={config.parallel.cp} uses as many "
                                   "ranks")])
    result = on_ranks(config.parallel, config.cluster, partial(write_here, config, path))
    if config.output and result is not None:
        Path(config.output).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return 0


def write_here(config: GenerateConfig, path: Path, device: "Device") -> dict[str, Any]:
    """The text, on one of the ranks that compute it together; rank 0 prints it."""
    from ...core.inference import load_trained

    trained = load_trained(path, config.parallel, device=device)
    tokenizer = load_tokenizer(config.tokenizer or trained.corpus)
    speaks = trained.context.rank == 0
    begin = time.perf_counter()
    text, count = "", 0
    show(config.prompt, config.stream and speaks)
    for piece, drawn in pieces(config, tokenizer, trained.generator, speaks=speaks):
        text, count = text + piece, drawn
        show(piece, config.stream and speaks)
    seconds = time.perf_counter() - begin
    if speaks:
        print("" if config.stream else config.prompt + text)
        print(f"[{count} tokens, {count / seconds:.1f} tokens/s, {trained.checkpoint.folder}]", file=sys.stderr)
    return {"prompt": config.prompt, "text": text, "tokens": count, "checkpoint": str(trained.checkpoint.folder)}


def show(piece: str, stream: bool) -> None:
    """Prints a piece at once, if asked to."""
    if stream:
        print(piece, end="", flush=True)


def pieces(config: GenerateConfig, tokenizer: Tokenizer, model: "Transformer | Pipeline", *,
           speaks: bool = True) -> Iterator[tuple[str, int]]:
    """New text as soon as it is certain, with the number of tokens drawn so far; ends at the end of the document, a stop text or a
    full context. The same on every rank; only the one that `speaks` says why it ended."""
    from ...core.generation import generate

    prompt_ids = tokenizer.encode(config.prompt) or [tokenizer.end_of_document]
    room = model.config.sequence_length - len(prompt_ids)
    if room < 1:
        raise ConfigError([Problem("prompt", f"{len(prompt_ids)} tokens", f"fills the model's context of {model.config.sequence_length}",
                                   "shorten it")])
    held = Held(config.stop)
    ids: list[int] = []
    for new in generate(model, prompt_ids, max_new_tokens=min(config.max_new_tokens, room), temperature=config.temperature,
                        top_k=config.top_k, top_p=config.top_p, seed=config.seed, stop_ids=[tokenizer.end_of_document]):
        if new == tokenizer.end_of_document:
            break
        ids.append(new)
        yield held.released(tokenizer.decode(ids)), len(ids)
        if held.stopped:
            return
    yield held.rest(tokenizer.decode(ids)), len(ids)
    if speaks and len(ids) == room:
        print(f"\n[the context of {model.config.sequence_length} tokens is full]", file=sys.stderr)


class Held:
    """Holds back what a stop text or an unfinished character may still change.

    Args:
        stops: texts that end the generation and are not printed.
    """

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._printed = 0
        self.stopped = False

    def released(self, whole: str) -> str:
        """What of the whole text so far is certain and not yet printed."""
        found = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._take(whole, min(found))
        certain = len(whole.rstrip(UNFINISHED))
        tails = (size for stop in self._stops for size in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:size]))
        return self._take(whole, min(certain, len(whole) - max(tails, default=0)))

    def rest(self, whole: str) -> str:
        """All that is left at the end."""
        return self._take(whole, len(whole))

    def _take(self, whole: str, end: int) -> str:
        begin, self._printed = self._printed, max(self._printed, end)
        return whole[begin:end]
