"""What training data costs: opening, shuffled samples and memory, beside Megatron-core's GPTDataset and nanoGPT's memmap in one run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...data.samples.dataset import TrainingSet
from ...data.samples.loader import Loader
from ...data.tokens.token_file import open_corpus
from ...data.tokens.writer import TokenFileWriter
from ..inputs import micro_batch
from .data_peers import Megatron, nanogpt_batch
from .table import Limit, Row

DATA = Limit(tolerance=0.0, relative=True, digits=1)
OPENING_MS, BULK_US, STALL_MS = 20.0, 20.0, 1.0
BULK, MICRO, ROUNDS = 64, 8, 5
SMALL_TOKENS = 1_000_000  # of the corpus beside which memory must not grow
LEEWAY_KB = 2048.0  # of the allocator, between two corpora
VOCAB_SIZE, MEAN_LOG, SPREAD_LOG = 50257, 4.6, 1.1  # GPT-2's; lengths of web documents are about log-normal
CHUNK_DOCUMENTS = 100_000


@dataclass(frozen=True)
class DataSetting:
    """What is measured.

    Args:
        tokens, documents: of the corpus that is made.
        sequence_length: of a sample.
        samples: of one timed round.
        folder: empty; the corpus is made there.
    """

    tokens: int
    documents: int
    sequence_length: int
    samples: int
    folder: Path


def write_corpus(prefix: Path, *, tokens: int, documents: int) -> None:
    """Random ids in documents of realistic lengths.

    Args:
        prefix: of the token file.
        tokens, documents: exactly so many documents, and nearly so many tokens.
    """
    draw = np.random.default_rng(0)
    with TokenFileWriter(prefix, np.uint16) as writer:
        for first in range(0, documents, CHUNK_DOCUMENTS):
            here = min(CHUNK_DOCUMENTS, documents - first)
            lengths = np.exp(draw.normal(MEAN_LOG, SPREAD_LOG, here))
            lengths = np.maximum(np.ceil(lengths * (tokens * here / documents / lengths.sum())).astype(np.int64), 1)
            writer.add_documents(draw.integers(1, VOCAB_SIZE, int(lengths.sum()), dtype=np.uint16), lengths)
        writer.finish()


def measure_data(rank: int, setting: DataSetting) -> list[Row]:
    """All rows; one process.

    Args:
        rank: of this process.
        setting: of the measurement.
    """
    del rank
    large, small = setting.folder / "large", setting.folder / "small"
    write_corpus(large, tokens=setting.tokens, documents=setting.documents)
    write_corpus(small, tokens=min(SMALL_TOKENS, setting.tokens), documents=max(min(SMALL_TOKENS // 200, setting.documents), 1))
    for prefix in (large, small):
        open_corpus(prefix)  # verified, stamped and in the page cache
    return [*_memory(setting, small, large), *_opening(setting, large), *_rates(setting, large), *_loading(setting, large)]


def _training_set(setting: DataSetting, prefix: Path) -> TrainingSet:
    return TrainingSet([(open_corpus(prefix), 1.0)], sequence_length=setting.sequence_length, seed=0, document_mask=True,
                       vocab_size=VOCAB_SIZE)


def _opening(setting: DataSetting, prefix: Path) -> list[Row]:
    before = _others(setting.folder)
    seconds = [_seconds(lambda: _training_set(setting, prefix).batch([0]), time.perf_counter) for _ in range(ROUNDS)]
    return [Row("Hexareme", "stamped opening and a first sample, ms", 1000 * min(seconds), OPENING_MS, bound=True),
            Row("Hexareme", "bytes of indices written", float(_others(setting.folder) - before), 0.0, bound=True)]


def _rates(setting: DataSetting, prefix: Path) -> list[Row]:
    """CPU time of a sample, the contenders in turn, each in its best round."""
    dataset = _training_set(setting, prefix)
    megatron = Megatron(prefix, setting.folder / "megatron", sequence_length=setting.sequence_length, samples=_epoch(setting, dataset))
    device = torch.device("cpu")

    def ours(first: int) -> None:
        batch = dataset.batch(range(first, first + MICRO))
        micro_batch(batch, step=0, document_mask=True, device=device)

    contenders: list[tuple[str, int, Callable[[int], object]]] = [
        ("Hexareme, bulk", BULK, lambda first: dataset.batch(range(first, first + BULK))),
        ("Hexareme", MICRO, ours),
        ("Megatron-core", MICRO, lambda first: megatron.batch(range(first, first + MICRO))),
        ("nanoGPT", MICRO, lambda first: nanogpt_batch(prefix.with_suffix(".bin"), MICRO, setting.sequence_length)),
    ]
    found: dict[str, list[float]] = {name: [] for name, _, _ in contenders}
    last = _epoch(setting, dataset) - BULK
    for round_number in range(ROUNDS):
        for name, size, read in contenders:
            begin = round_number * setting.samples
            firsts = [first % last for first in range(begin, begin + setting.samples, size)]
            found[name].append(_seconds(lambda firsts=firsts, read=read: [read(first) for first in firsts],  # type: ignore[misc]
                                        time.process_time) / len(firsts) / size)
    cost = {name: 1e6 * min(seconds) for name, seconds in found.items()}
    rows = [Row("Hexareme", f"bulk reads of {BULK}: CPU us a sample", cost["Hexareme, bulk"], BULK_US, bound=True),
            Row("Hexareme", f"bulk reads of {BULK}: samples a CPU second", 1e6 / cost["Hexareme, bulk"], None),
            Row("Hexareme", f"micro-batches of {MICRO} as int64 tensors: CPU us a sample", cost["Hexareme"], cost["Megatron-core"],
                bound=True)]
    rows += [Row(name, f"micro-batches of {MICRO}: CPU us a sample", cost[name], None) for name in ("Megatron-core", "nanoGPT")]
    return [*rows, Row("Megatron-core", "building its index, s", megatron.build_seconds, None),
            Row("Megatron-core", "bytes of its index on disk", float(megatron.index_bytes), None)]


def _memory(setting: DataSetting, small: Path, large: Path) -> list[Row]:
    """What opening and reading adds to this process' own memory; pages of the index are the page cache's and are told apart."""
    _growth(setting, small)  # what is allocated once, whatever is opened
    grown = {prefix: _growth(setting, prefix) for prefix in (small, large)}
    (small_kb, _), (large_kb, mapped_kb) = grown[small], grown[large]
    return [Row("Hexareme", f"private memory at {SMALL_TOKENS / 1e6:g} M tokens, kB", small_kb, None),
            Row("Hexareme", f"private memory at {setting.tokens / 1e6:g} M tokens, kB", large_kb, max(small_kb, 0) + LEEWAY_KB, bound=True),
            Row("Hexareme", "pages of the index in the page cache, mapped, kB", mapped_kb, None)]


def _growth(setting: DataSetting, prefix: Path) -> tuple[float, float]:
    before = _private()
    dataset = _training_set(setting, prefix)
    for first in range(0, setting.samples, BULK):
        dataset.batch(range(first, first + BULK))
    after = _private()
    return after[0] - before[0], after[1] - before[1]


def _private() -> tuple[float, float]:
    """kB of this process' own: dirty pages, and clean pages of files, which the system may take back at any time."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return float(fields["Private_Dirty"].split()[0]), float(fields["Private_Clean"].split()[0])


def _loading(setting: DataSetting, prefix: Path) -> list[Row]:
    """A training step that takes a while, with a loader behind: how long it waits for data. The step sleeps, as if on a GPU."""
    dataset, step_seconds, steps = _training_set(setting, prefix), 0.02, 50
    waits: list[float] = []
    with Loader(dataset, local_samples=lambda step: range(step * BULK, step * BULK + BULK), workers=1) as loader:
        loader.batch(0)
        for step in range(1, steps):
            time.sleep(step_seconds)
            waits.append(_seconds(lambda step=step: loader.batch(step), time.perf_counter))  # type: ignore[misc]
        stalls = loader.stalls
    mean = 1000 * sum(waits) / len(waits)
    return [Row("Hexareme", f"waiting for {BULK} samples beside a step of 20 ms, ms", mean, STALL_MS, bound=True),
            Row("Hexareme", f"steps of {len(waits)} that waited at all", float(stalls), None)]


def _epoch(setting: DataSetting, dataset: TrainingSet) -> int:
    return dataset.files[0].num_tokens // setting.sequence_length


def _others(folder: Path) -> int:
    """Bytes of all files but the tokens themselves and the stamps."""
    known = (".bin", ".idx", ".stamp.json")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.name.endswith(known))


def _seconds(action: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    action()
    return clock() - begin
