"""The report of cleaning as one page of HTML that needs nothing else."""

from html import escape
from typing import Any


def page(state: dict[str, Any]) -> str:
    """The page.

    Args:
        state: of a CleanReport.
    """
    return f"<!doctype html><meta charset=utf-8><title>Cleaning</title><pre>{escape(str(state))}</pre>"
