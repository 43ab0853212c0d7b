"""What tokenizing costs: our encoder beside tiktoken and Hugging Face tokenizers, `prepare` beside our encoder, and its memory."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
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
WORKERS = (1, 2)
PARTS = 2  # a round reads so much of the text: enough for a second worker's own start not to count
SOURCE_BYTES, SAMPLE_BYTES = 16_000_000, 16_000_000  # read of this Python's library; encoded in a round
VOCAB_SIZE = 32_000
Encode = Callable[[Sequence[str]], Any]
Contenders = dict[str, Encode]


@dataclass(frozen=True)
class TokenizeSetting:
    """What is measured.

    Args:
        text_bytes: of the input that `prepare` reads.
        document_bytes: of the one long document.
        rounds: of the bare encoders and `prepare` in turn; medians count.
        folder: empty; everything is made there.
    """

    text_bytes: int
    document_bytes: int
    rounds: int
    folder: Path


@dataclass(frozen=True)
class Round:
    """One turn of everybody, close together in time, since a machine's speed drifts by more than what is measured.

    Args:
        bare: of each encoder, CPU seconds of a GB.
        cpu: of `prepare` with so many workers, CPU seconds of a GB beyond its start.
        wall: the same in seconds.
    """

    bare: dict[str, float]
    cpu: dict[int, float]
    wall: dict[int, float]


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
    lines, part, long, short = (setting.folder / f"{name}.jsonl" for name in ("text", "part", "long", "short"))
    written = write_lines(lines, text.documents(setting.text_bytes))
    size = write_lines(part, text.documents(setting.text_bytes // PARTS))
    write_lines(long, iter([text.document(setting.document_bytes)]))
    write_lines(short, islice(text.documents(1), 1))
    sample = list(text.documents(min(SAMPLE_BYTES, setting.text_bytes)))

    contenders = _contenders(load_tokenizer(tokenizer), model, end)
    compared = _compare(contenders, sample)
    starts = {workers: _run(setting, short, workers=workers) for workers in WORKERS}  # what a start costs, whatever the size
    rounds = [_round(setting, contenders, sample, (part, size), starts, number) for number in range(setting.rounds)]
    whole, document = _run(setting, lines, workers=WORKERS[-1]), _run(setting, long, workers=1)
    return [*compared, *_rates(rounds), *_ends(rounds, starts[1]), *_memory(whole, document, written, setting.document_bytes)]


def _round(setting: TokenizeSetting, contenders: Contenders, sample: Sequence[str], text: tuple[Path, int], starts: dict[int, Cost],
           number: int) -> Round:
    """Odd ones go through the workers backwards, so that a machine that gets slower or faster favours nobody."""
    path, size = text
    encoded = sum(len(each.encode()) for each in sample)
    bare = {name: _cpu(encode, sample)[0] / encoded * 1e9 for name, encode in contenders.items()}
    costs = {workers: _run(setting, path, workers=workers) for workers in WORKERS[:: -1 if number % 2 else 1]}
    cpu = {workers: (cost.cpu - starts[workers].cpu) / size * 1e9 for workers, cost in costs.items()}
    return Round(bare, cpu, {workers: (cost.wall - starts[workers].wall) / size * 1e9 for workers, cost in costs.items()})


def _cpu(encode: Encode, sample: Sequence[str]) -> tuple[float, Any]:
    began = time.process_time()
    found = encode(sample)
    return time.process_time() - began, found


def _compare(contenders: Contenders, sample: Sequence[str]) -> list[Row]:
    """How many ids differ from ours."""
    ids = {}
    for name, encode in contenders.items():
        found = encode(sample)
        ids[name] = found if isinstance(found, np.ndarray) else np.fromiter((token for each in found for token in each), np.uint32)
    unlike = {name: float(_unlike(theirs, ids["Hexareme"])) for name, theirs in ids.items() if name != "Hexareme"}
    return [Row(name, "ids unlike ours", count, 0.0, bound=True) for name, count in unlike.items()]


def _contenders(tokenizer: Tokenizer, model: bytes, end: int) -> Contenders:
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


def _rates(rounds: Sequence[Round]) -> list[Row]:
    beside = median(each.bare["Hexareme"] / each.bare["tiktoken"] for each in rounds)
    bare = {name: median(each.bare[name] for each in rounds) for name in rounds[0].bare}
    return [Row("Hexareme", "encode_batch: CPU seconds over those of tiktoken", beside, LEEWAY, bound=True),
            *(Row(name, "CPU s a GB", seconds, None) for name, seconds in bare.items()),
            *(Row(name, "MB a CPU second", 1000 / seconds, None) for name, seconds in bare.items())]


def _ends(rounds: Sequence[Round], start: Cost) -> list[Row]:
    """From the file to the corpus. Starting is told apart, and taken off: it is the same for any size."""
    one, two = WORKERS
    beyond = {workers: median(each.cpu[workers] / each.bare["Hexareme"] for each in rounds) for workers in WORKERS}
    what = "CPU seconds over those of the encoder"
    rows = [Row(_name(workers), what, over, 1 / BARE_RATE, bound=True) for workers, over in beyond.items()]
    speedup = median(each.wall[two] / each.wall[one] for each in rounds)
    rows.append(Row(_name(two), "seconds over those of 1 worker", speedup, 1 / SPEEDUP, bound=True))
    rows.append(Row(_name(one), "MB a CPU second", 1000 / median(each.cpu[one] for each in rounds), None))
    rows += [Row(_name(workers), "MB a second", 1000 / median(each.wall[workers] for each in rounds), None) for workers in WORKERS]
    return [*rows, Row("prepare", "start: CPU s", start.cpu, None)]


def _name(workers: int) -> str:
    return f"prepare, {workers} worker{'s' if workers > 1 else ''}"


def _memory(whole: Cost, document: Cost, written: int, document_bytes: int) -> list[Row]:
    """The most that all processes had at once, and the largest one by itself."""
    found = [(_name(WORKERS[-1]), f"MB of memory, input of {written / 1e9:.2g} GB", whole),
             (_name(1), f"MB of memory, a document of {document_bytes / 1e6:g} MB", document)]
    rows = [Row(where, what, cost.memory / 1e6, MEMORY / 1e6, bound=True) for where, what, cost in found]
    return [*rows, Row("prepare", "MB of memory, the largest process", max(cost.largest for _, _, cost in found) / 1e6, None)]
