"""Input that was read and cannot be used: going on where it was would not help."""

from pathlib import Path

from ..errors import DataError
from .tally import Tally

# After so many records with so many bad ones, it is a wrong text_key or a wrong file, and not worth reading on.
_EARLY_RECORDS, _EARLY_LIMIT = 10_000, 0.1


class Unusable(DataError):
    """The text or the recipe must change."""


def check_rejects(tally: Tally, limit: float, listed: Path, *, early: bool = False) -> None:
    """Stops where too many records are bad.

    Args:
        tally: what was read.
        limit: largest part of bad records.
        listed: where the list of them will lie.
        early: it is not all yet.

    Raises:
        Unusable: there are too many.
    """
    if early and tally.records < _EARLY_RECORDS:
        return
    if tally.rejected <= (max(_EARLY_LIMIT, limit) if early else limit) * tally.records:
        return
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(tally.causes.items()))
    message = f"{tally.rejected} of {tally.records} records are bad ({causes}), more than reject_limit={limit}"
    raise Unusable(message, do=f"see {listed}, then mend the input or text_key=, or raise reject_limit=", file=listed)
