"""The error of this layer. Pure: imports nothing of ours."""

import os
from functools import partial
from typing import Any


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

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle needs: a worker process sends its error to the process that reports it."""
        return partial(type(self), do=self.do, file=self.file), self.args
