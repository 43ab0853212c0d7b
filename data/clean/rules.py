"""Which rules the settings ask for, in the order in which they are applied: what is cheap or removes much comes first."""

from collections.abc import Iterator

from .normalize import Normalize
from .rule import Rule
from .settings import CleanSettings


def rules_of(settings: CleanSettings) -> Iterator[Rule]:
    """The rules that are switched on.

    Raises:
        DataError: what one of them needs is missing.
    """
    if settings.normalize.enabled:
        yield Normalize(settings.normalize)
