"""E-mail addresses and IP addresses replaced, by datatrove's expressions."""

import re

from datatrove.pipeline.formatters import PIIFormatter

from .rule import Page, Refused
from .settings import PiiSettings

_AROUND = 320  # characters: an address has at most 64 before its @ and 255 behind (RFC 5321, 4.5.3.1)
_AT = re.compile("@")


class Pii:
    """One replacement for all e-mail addresses and one for all IP addresses.

    The library goes round through several, counting on from document to document: the result would depend on which worker saw what.
    """

    name = "pii"

    def __init__(self, settings: PiiSettings) -> None:
        self._settings = settings
        self._library = PIIFormatter(only_remove_public_ips=settings.public_only, email_replacement=settings.email,
                                     ip_replacement=settings.address)

    def __call__(self, page: Page) -> str | Refused:
        text = page.text
        if self._settings.emails and "@" in text:
            text = self._without_emails(text)
        if self._settings.addresses:
            text = self._library.ip_replacer.replace(text)
        return page.text if text == page.text else text

    def _without_emails(self, text: str) -> str:
        """The library's expression around each @ only: over a long run of its characters without one it takes quadratic time."""
        parts, done = [], 0
        for start, end in _windows(text):
            parts += [text[done:start], self._library.emails_replacer.replace(text[start:end])]
            done = end
        return "".join([*parts, text[done:]])


def _windows(text: str) -> list[tuple[int, int]]:
    """The surroundings of every @, joined where they meet."""
    windows: list[tuple[int, int]] = []
    for match in _AT.finditer(text):
        start, end = max(0, match.start() - _AROUND), min(len(text), match.end() + _AROUND)
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], end)
        else:
            windows.append((start, end))
    return windows
