"""What a rule needs of the machine: libraries and files. Both are asked for when the rules are made, before the first document."""

from importlib.util import find_spec
from pathlib import Path

from ..errors import DataError


def need_library(module: str, key: str) -> None:
    """Asks for a library that is not installed with the package itself.

    Raises:
        DataError: it is not there.
    """
    if find_spec(module) is None:
        way = "pip install 'hexareme[clean]', or switch the rule off"
        raise DataError(f"{key} needs the library {module}, which is not installed", do=way)


def need_file(path: str, key: str) -> Path:
    """The file that a key names.

    Raises:
        DataError: there is none.
    """
    if not Path(path).is_file():
        raise DataError(f"{key}={path} is no file", do="name an existing file, or switch the rule off", file=path)
    return Path(path)


def lines_of(path: str, key: str) -> list[str]:
    """The entries of a list: one a line, without blanks around; empty lines and lines that start with # are none.

    Raises:
        DataError: the file is missing, no UTF-8, or has no entry.
    """
    try:
        text = need_file(path, key).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{key}={path} is no UTF-8: {error}", do="convert the list to UTF-8", file=path) from error
    entries = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not entries:
        raise DataError(f"{key}={path} has no entry", do="write one entry a line, or leave the key empty", file=path)
    return entries
