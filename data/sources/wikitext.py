"""Wikitext to plain text: what a reader would read, without templates, tables, references and links to files."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node, Tag, Wikilink
    from mwparserfromhell.wikicode import Wikicode

# Beside what mwparserfromhell itself calls invisible.
_HIDDEN_TAGS = frozenset(("ref", "references", "table", "style", "script", "hiero", "indicator", "maplink", "mapframe", "ce", "chem"))
_BREAKS = frozenset(("br", "hr", "p", "div"))
_MAGIC_WORDS = re.compile(r"__[^\W\d_]{2,30}__")
_BLANK = re.compile(r"[ \t]+$", re.MULTILINE)
_GAPS = re.compile(r"\n{3,}")


def plain_text(wikitext: str, hidden: Collection[str]) -> str:
    """The text of an article.

    Args:
        wikitext: its source.
        hidden: namespaces in small letters whose links show no text: files, categories.
    """
    import mwparserfromhell

    text = _text(mwparserfromhell.parse(wikitext), hidden)
    return _GAPS.sub("\n\n", _BLANK.sub("", _MAGIC_WORDS.sub("", text))).strip()


def _text(code: "Wikicode", hidden: Collection[str]) -> str:
    return "".join(_node(node, hidden) for node in code.nodes)


def _node(node: "Node", hidden: Collection[str]) -> str:
    from mwparserfromhell import nodes

    match node:
        case nodes.Text():
            return str(node.value)
        case nodes.HTMLEntity():
            return str(node.normalize())
        case nodes.Heading():
            return _text(node.title, hidden).strip()
        case nodes.Wikilink():
            return _link(node, hidden)
        case nodes.ExternalLink():
            if node.title is not None:
                return _text(node.title, hidden)
            return "" if node.brackets else str(node.url)
        case nodes.Tag():
            return _tag(node, hidden)
    return ""  # templates, arguments, comments


def _link(link: "Wikilink", hidden: Collection[str]) -> str:
    title = str(link.title).strip()
    if title.partition(":")[0].strip().replace("_", " ").lower() in hidden and ":" in title:
        return ""
    return _text(link.title if link.text is None else link.text, hidden).removeprefix(":")


def _tag(tag: "Tag", hidden: Collection[str]) -> str:
    from mwparserfromhell.definitions import is_visible

    name = str(tag.tag).strip().lower()
    if name in _HIDDEN_TAGS or not is_visible(name):
        return ""
    inner = _text(tag.contents, hidden) if tag.contents is not None else ""
    return f"\n{inner}" if name in _BREAKS and not tag.wiki_markup else inner
