"""Unicode and whitespace made uniform."""

import re
import unicodedata
from typing import Literal, cast

from .rule import Page, Refused
from .settings import NormalizeSettings

# Possessive and anchored, so that a million blanks before a letter take linear time.
_BLANK_RUNS = re.compile(r"[^\S\n ][^\S\n]*+| [^\S\n]++")  # every run of blanks but one plain blank
_LINE_ENDS = re.compile(r"(?<![^\S\n])[^\S\n]++(?=\n|\Z)")
_EMPTY_LINES = re.compile(r"\n{3,}")
# What ftfy could change in an ASCII text: control characters, and entities of HTML.
_ASCII_REPAIRS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f&]")


class Normalize:
    """Mojibake repaired (ftfy with datatrove's choice of repairs), one Unicode form, one kind of line end and of blank.

    Done twice it changes nothing more, but for the repair: that guesses, and may guess again when a blank beside the text is gone.
    """

    name = "normalize"

    def __init__(self, settings: NormalizeSettings) -> None:
        self._settings = settings
        self._repair = None
        if settings.repair:
            from datatrove.pipeline.formatters import FTFYFormatter

            self._repair = FTFYFormatter()

    def __call__(self, page: Page) -> str | Refused:
        text = page.text
        if self._repair and not (text.isascii() and not _ASCII_REPAIRS.search(text)):
            text = self._repair.format(text)
        if self._settings.unicode != "none":
            form = cast(Literal["NFC", "NFKC"], self._settings.unicode)
            text = text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, text)
        text = whitespace(text, self._settings.whitespace)
        return text if text != page.text else page.text


def whitespace(text: str, how: str) -> str:
    """One kind of line end (LF); no blanks at line ends, no more than one empty line (trailing: two) in a row, none around the text.

    Args:
        text: any.
        how: keep (as it is), trailing (line ends only, so that code keeps its indentation) or collapse (runs of blanks become one).
    """
    if how == "keep":
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    if how == "collapse":
        text = _BLANK_RUNS.sub(" ", text).replace(" \n", "\n").replace("\n ", "\n")
        return _EMPTY_LINES.sub("\n\n", text).strip()
    return _EMPTY_LINES.sub("\n\n\n", _LINE_ENDS.sub("", text)).strip("\n").rstrip()
