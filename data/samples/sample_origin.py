"""Where the samples of a batch come from, for people: files, documents, and the bytes where these begin."""

from collections.abc import Sequence

from ..tokens.joined import Tokens
from .batch import Batch

MOST_DOCUMENTS = 6  # of one sample


def sample_origins(files: Sequence[Tokens], batch: Batch, *, most: int) -> str:
    """The samples of a batch, each with its file, its documents and their byte offsets in the `.bin`.

    Args:
        files: of the training set, in the order of its sources.
        batch: the samples.
        most: characters; samples that do not fit are counted.
    """
    parts: list[str] = []
    room = most
    sources, total = batch.sources_B.tolist(), len(batch.samples_B)
    for number, (sample, source) in enumerate(zip(batch.samples_B.tolist(), sources, strict=True)):
        file = files[source]
        place = f" of {file.origin(batch.document_ids_B[number][0])[0]}" if number == 0 or source != sources[number - 1] else ""
        part = f"sample {sample}{place} ({_documents(file, batch.document_ids_B[number])})"
        if room < len(part) + 20 and parts:
            return f"{'; '.join(parts)}; and {total - number} samples more"
        parts.append(part[:most])
        room -= len(part) + 2
    return "; ".join(parts)


def _documents(file: Tokens, numbers: Sequence[int]) -> str:
    """Documents with the bytes where they begin; a file is named where it is another than that of the first one."""
    origins = [file.origin(number) for number in numbers[:MOST_DOCUMENTS]]
    named = [f"document {number}{'' if path == origins[0][0] else f' of {path}'} at byte {byte}" for path, number, byte in origins]
    return ", ".join(named) + (f", {len(numbers) - len(named)} more" if len(numbers) > len(named) else "")
