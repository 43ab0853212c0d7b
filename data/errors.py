"""The error of this layer. Pure: imports nothing of ours."""

import os


class DataError(ValueError):
    """Training data that is missing, damaged or does not fit; ends a run with exit code 3.

    Args:
        message: what is wrong, with the values.
        do: the way out, one clause.
        file: the file it is about, if any.
    """

    exit_code = 3

    def __init__(self, message: str, *, do: str, file: str | os.PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.do = do
        self.file = None if file is None else os.fspath(file)
