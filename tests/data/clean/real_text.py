"""Real text that every machine with this repository has: Python's manual and source, an article of the Declaration of Human Rights."""

import inspect
import json
import re
from functools import cache
from html import escape
from pydoc_data.topics import topics

from hexareme.data.sources.document import Document

# Article 1 of the Universal Declaration of Human Rights (United Nations, 1948; translations of its High Commissioner, free to use).
ARTICLE_1 = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
          "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und "
          "sollen einander im Geist der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
          "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
          "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
          "coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência, "
          "devem agir uns para com os outros em espírito de fraternidade.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en "
          "geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
          "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны "
          "поступать в отношении друг друга в духе братства.",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性"
          "と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح "
          "الإخاء.",
}

BOILERPLATE = ("Sign up for our newsletter", "Accept all cookies", "Share on Facebook", "All rights reserved by Example",
               "Home News Shop")


def document(text: str, *, kind: str = "text", url: str = "", file: str = "a.txt", line: int = 1) -> Document:
    return Document(text, file, line, kind, url)


@cache
def prose() -> list[str]:
    """Paragraphs of Python's manual that are English sentences, joined to texts of about 2,000 characters."""
    found, text = [], ""
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            flat = " ".join(paragraph.split())
            if flat.endswith(".") and len(flat) > 150 and not re.search(r"[{}<>=*|\[\]@]|::|>>>", flat):
                text += flat + "\n\n"
        if len(text) > 2000:
            found.append(text.strip())
            text = ""
    return found


@cache
def source_files() -> list[str]:
    """Python's own source."""
    return [inspect.getsource(module) for module in (inspect, json.decoder, json.encoder, re)]


def web_page(text: str) -> str:
    """A page as sites serve it: the text as an article, and around it what no model should learn."""
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n"))
    newsletter, cookies, share, rights, menu = BOILERPLATE
    links = "".join(f'<li><a href="/{word.lower()}">{word}</a></li>' for word in menu.split())
    head = "<title>A page</title><script>var tracking = 'secret';</script><style>p {color: red}</style>"
    return (f"<!doctype html><html><head>{head}</head><body>"
            f"<header><nav><ul>{links}</ul></nav></header><div class='cookie-banner'><button>{cookies}</button></div>"
            f"<main><article><h1>A page</h1>{paragraphs}</article></main>"
            f"<aside class='sidebar'><p>{newsletter}</p><a href='/fb'>{share}</a></aside><footer><p>{rights}</p></footer></body></html>")
