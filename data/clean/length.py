"""Documents that are too short or too long."""

from .rule import Page, Refused
from .settings import LengthSettings


class Length:
    """Characters between two bounds."""

    name = "length"

    def __init__(self, settings: LengthSettings) -> None:
        self._settings = settings

    def __call__(self, page: Page) -> str | Refused:
        if len(page.text) < self._settings.least:
            return Refused("too_short")
        if self._settings.most and len(page.text) > self._settings.most:
            return Refused("too_long")
        return page.text
