"""What tokenizing costs: our encoder beside tiktoken and Hugging Face tokenizers, `prepare` beside our encoder, and its memory."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...data.tokenizer.byte_ranks import byte_ranks
from ...data.tokenizer.split_patterns import GPT2
from ...data.tokenizer.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from ...data.tokenizer.training import train_tokenizer
from .preparing import Cost, run_prepare
from .real_text import RealText, write_lines
from .table import Limit, Row

TOKENIZE = Limit(tolerance=0.0, relative=True, digits=2)
BARE_RATE = 0.8  # of our encoder's rate is that of `prepare`, at least
SPEEDUP = 1.9  # of two workers
LEEWAY = 1.1  # our calls beside those of tiktoken itself
MEMORY = 1e9
SOURCE_BYTES, SAMPLE_BYTES = 16_000_000, 16_000_000  # read of this Python's library; encoded in a round
VOCAB_SIZE = 32_000


@dataclass(frozen=True)
class TokenizeSetting:
    """What is measured.

    Args:
        text_bytes: of the input that `prepare` reads.
        document_bytes: of the one long document.
        rounds: of the bare encoders; the best counts.
        folder: empty; everything is made there.
    """

    text_bytes: int
    document_bytes: int
    rounds: int
    folder: Path


def measure_tokenize(rank: int, setting: TokenizeSetting) -> list[Row]:
    """All rows; one process, and those of `prepare`.

    Args:
        rank: of this process.
        setting: of the measurement.
    """
    del rank
    text = RealText(min(SOURCE_BYTES, setting.text_bytes), seed=0)
    model, end = train_tokenizer("byte_bpe", text.source, vocab_size=VOCAB_SIZE)
    tokenizer = setting.folder / "tokenizer"
    save_tokenizer(tokenizer, kind="byte_bpe", model=model, end_of_document=end)
    lines, long, short = (setting.folder / f"{name}.jsonl" for name in ("text", "long", "short"))
    written = write_lines(lines, text.documents(setting.text_bytes))
    write_lines(long, iter([text.document(setting.document_bytes)]))
    write_lines(short, islice(text.documents(1), 1))

    first = _run(setting, short, workers=1)  # what a start costs, whatever the size
    sample = list(text.documents(min(SAMPLE_BYTES, setting.text_bytes)))
    before, compared = _encoders(load_tokenizer(tokenizer), model, end, sample, setting.rounds)
    one, two = (_run(setting, lines, workers=workers) for workers in (1, 2))
    after, _ = _encoders(load_tokenizer(tokenizer), model, end, sample, setting.rounds)
    bare = {name: min(before[name], after[name]) for name in before}
    document = _run(setting, long, workers=1)
    return [*compared, *_rates(bare), *_ends(bare["Hexareme"], first, one, two, written),
            *_memory(one, two, document, written, setting.document_bytes)]


def _encoders(tokenizer: Tokenizer, model: bytes, end: int, sample: Sequence[str], rounds: int) -> tuple[dict[str, float], list[Row]]:
    """CPU seconds of a GB, in turn, each in its best round; and how many ids differ."""
    contenders = _contenders(tokenizer, model, end)
    size = sum(len(text.encode()) for text in sample)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    ids: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, encode in contenders.items():
            began = time.process_time()
            found = encode(sample)
            seconds[name].append((time.process_time() - began) / size * 1e9)
            ids[name] = found if isinstance(found, np.ndarray) else np.fromiter((token for each in found for token in each), np.uint32)
    unlike = {name: float(_unlike(ids[name], ids["Hexareme"])) for name in ("tiktoken", "tokenizers")}
    rows = [Row(name, "ids unlike ours", count, 0.0, bound=True) for name, count in unlike.items()]
    return {name: min(each) for name, each in seconds.items()}, rows


def _contenders(tokenizer: Tokenizer, model: bytes, end: int) -> dict[str, Callable[[Sequence[str]], Any]]:
    """Each encodes all texts, in this thread: our tokenizer, and both libraries as their documentation says."""
    from tiktoken import Encoding
    from tokenizers import Tokenizer as Library

    file = json.loads(model)
    found = byte_ranks(file["model"]["vocab"], file["model"]["merges"], ignore_merges=False, proven=True)
    assert found and found.ids is None
    encoding = Encoding("bench", pat_str=GPT2, mergeable_ranks=found.ranks, special_tokens={"<|endofdoc|>": end})
    library = Library.from_buffer(model)
    library.encode_special_tokens = True
    return {
        "Hexareme": lambda texts: tokenizer.encode_batch(texts).ids,
        "tiktoken": lambda texts: encoding.encode_ordinary_batch(list(texts), num_threads=1),
        "tokenizers": lambda texts: [each.ids for each in library.encode_batch(list(texts), add_special_tokens=False)],
    }


def _unlike(theirs: np.ndarray, ours: np.ndarray) -> int:
    return int((theirs != ours).sum()) if len(theirs) == len(ours) else max(len(theirs), len(ours))


def _run(setting: TokenizeSetting, text: Path, *, workers: int) -> Cost:
    output = setting.folder / "corpus"
    try:
        return run_prepare(text, output, setting.folder / "tokenizer", workers=workers)
    finally:
        shutil.rmtree(output, ignore_errors=True)


def _rates(bare: dict[str, float]) -> list[Row]:
    rows = [Row("Hexareme", f"encode_batch: CPU s a GB, {LEEWAY} tiktoken", bare["Hexareme"], LEEWAY * bare["tiktoken"], bound=True)]
    rows += [Row(name, "CPU s a GB", bare[name], None) for name in ("tiktoken", "tokenizers")]
    return [*rows, *(Row(name, "MB a CPU second", 1000 / seconds, None) for name, seconds in bare.items())]


def _ends(bare: float, first: Cost, one: Cost, two: Cost, written: int) -> list[Row]:
    """From the file to the corpus. Starting is told apart, and taken off: it is the same for any size."""
    cpu = [(cost.cpu - first.cpu) / written * 1e9 for cost in (one, two)]
    wall = [cost.wall - first.wall for cost in (one, two)]
    return [
        Row("prepare, 1 worker", f"CPU s a GB, encoder / {BARE_RATE}", cpu[0], bare / BARE_RATE, bound=True),
        Row("prepare, 2 workers", f"CPU s a GB, encoder / {BARE_RATE}", cpu[1], bare / BARE_RATE, bound=True),
        Row("prepare, 2 workers", f"seconds, those of 1 worker / {SPEEDUP}", wall[1], wall[0] / SPEEDUP, bound=True),
        Row("prepare, 1 worker", "MB a CPU second", 1000 / cpu[0], None),
        Row("prepare, 1 worker", "MB a second", written / wall[0] / 1e6, None),
        Row("prepare, 2 workers", "MB a second", written / wall[1] / 1e6, None),
        Row("prepare", "start: CPU s", first.cpu, None),
    ]


def _memory(one: Cost, two: Cost, document: Cost, written: int, document_bytes: int) -> list[Row]:
    """The most that all processes had at once, and the largest one by itself."""
    size = f"MB of memory, input of {written / 1e9:.2g} GB"
    found = [("1 worker", size, one), ("2 workers", size, two),
             ("1 worker", f"MB of memory, a document of {document_bytes / 1e6:g} MB", document)]
    rows = [Row(f"prepare, {workers}", what, cost.memory / 1e6, MEMORY / 1e6, bound=True) for workers, what, cost in found]
    return [*rows, Row("prepare", "MB of memory, the largest process", max(cost.largest for _, _, cost in found) / 1e6, None)]
