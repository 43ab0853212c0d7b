"""Folders that Hugging Face `datasets` wrote with `save_to_disk`: which of their files hold the rows.

Layout: a dataset is `state.json`, `dataset_info.json` and Arrow streams `data-00000-of-00001.arrow`; a dictionary of them is
`dataset_dict.json` and a folder for each split. What else lies there, such as caches of `map`, holds no rows.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DataError

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_cache(file: str) -> bool:
    """Whether `datasets` left it there when it computed something."""
    name = os.path.basename(file)
    return name.endswith(".arrow") and name.startswith(("cache-", "tmp"))


def _read_local(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def without_descriptions(files: Sequence[str], root: str, split: str, read: Callable[[str], bytes] = _read_local) -> list[str]:
    """The files that hold text or rows, in their order; of datasets only the Arrow files they name, in the order in which they name them.

    Args:
        files: all files of a folder, paths or URLs.
        root: the folder.
        split: the one wanted of a dictionary of datasets; may be "" where there is only one.
        read: gives the bytes of one of the files.

    Raises:
        DataError: a split that is not there, or must be chosen; a dataset with damaged description or missing files.
    """
    present = set(files)
    kept = list(files)
    dictionaries = [file.removesuffix(_SPLITS) for file in files if os.path.basename(file) == _SPLITS]
    if split and not dictionaries:
        raise DataError(f"input={root}: split={split} is given, but it holds no {_SPLITS}", do="leave split= away", file=root)
    for folder in dictionaries:
        wanted = f"{folder}{_chosen(folder, split, _json(folder + _SPLITS, read))}/"
        kept = [file for file in kept if not file.startswith(folder) or file.startswith(wanted)]
    folders = [file.removesuffix(_STATE) for file in kept if os.path.basename(file) == _STATE]
    for folder in folders:
        if folder + _INFO in present:
            shards = _shards(folder, _json(folder + _STATE, read), present)
            at = kept.index(folder + _STATE)
            inside = {file for file in kept if file.rpartition("/")[0] + "/" == folder}
            kept = [file for file in kept[:at] if file not in inside] + shards + [file for file in kept[at:] if file not in inside]
    return kept


def _json(path: str, read: Callable[[str], bytes]) -> Any:
    try:
        return json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", do="save the dataset again", file=path) from error


def _chosen(folder: str, split: str, description: Any) -> str:
    splits = description.get("splits") if isinstance(description, dict) else None
    if not isinstance(splits, list) or not splits or not all(isinstance(each, str) and "/" not in each for each in splits):
        raise DataError(f"{folder}{_SPLITS} names no splits", do="save the dataset again", file=folder + _SPLITS)
    if split in splits:
        return split
    if not split and len(splits) == 1:
        return splits[0]
    why = f"has no split {split}" if split else "has several splits"
    raise DataError(f"the dataset at {folder} {why}: {', '.join(splits)}", do="set split= in the input entry to one of them", file=folder)


def _shards(folder: str, state: Any, present: set[str]) -> list[str]:
    try:
        names = [str(each["filename"]) for each in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder}{_STATE} names no data files", do="save the dataset again", file=folder + _STATE) from error
    missing = sorted(name for name in names if folder + name not in present)
    if missing:
        raise DataError(f"the dataset at {folder} misses {missing[0]}", do="copy it again from its source", file=folder + missing[0])
    return [folder + name for name in names]
