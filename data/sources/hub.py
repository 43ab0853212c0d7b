"""Datasets on the Hugging Face hub: the `datasets` library downloads them once, and its cache of Arrow files is read."""

from collections.abc import Iterator

from ..errors import DataError
from .remote import reaching
from .source import Entry, Source, file_source


def hub_sources(entry: Entry, name: str) -> Iterator[Source]:
    """The Arrow files of one split.

    Args:
        entry: with `split` (else "train") and `subset`, if it has several.
        name: `owner/name`, with `@revision` if not the newest.

    Raises:
        DataError: no network, no such dataset or split.
    """
    with reaching(entry.path):
        from datasets import load_dataset

        path, _, revision = name.partition("@")
        dataset = load_dataset(path, entry.subset or None, split=entry.split or "train", revision=revision or None)
    files = [file["filename"] for file in dataset.cache_files]
    if not files:
        raise DataError(f"{entry.path} has no rows", do="check split= and subset=", file=entry.path)
    for file in files:
        yield file_source(file, Entry(file, "arrow", entry.text_key))
