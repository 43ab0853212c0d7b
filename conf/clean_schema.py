"""Every key of `clean`: how documents are filtered, changed and compared. The sections mirror `data/clean/settings.py`, a rule each."""

from dataclasses import dataclass
from enum import StrEnum

from .fields import items, number, text


class CleanName(StrEnum):
    none = "none"
    deduplicate = "deduplicate"
    web = "web"
    code = "code"


class UnicodeForm(StrEnum):
    none = "none"
    NFC = "NFC"
    NFKC = "NFKC"


class Whitespace(StrEnum):
    keep = "keep"
    trailing = "trailing"
    collapse = "collapse"


class Words(StrEnum):
    regex = "regex"
    library = "library"


def part(default: float, *, help: str) -> float:
    """A fraction."""
    return number(default, least=0, most=1, help=help)


def switch(help: str) -> bool:
    """The key that turns a rule on."""
    return text(False, help=help)


@dataclass(kw_only=True)
class HtmlConfig:
    precision: bool = text(True, help="text out of HTML pages: rather lose some than keep boilerplate")
    tables: bool = text(True, help="text out of HTML pages: with that of tables")
    largest_bytes: int = number(8 << 20, least=1, help="HTML pages with more bytes of UTF-8 are removed")


@dataclass(kw_only=True)
class NormalizeConfig:
    enabled: bool = switch("make Unicode and whitespace uniform")
    repair: bool = text(True, help="undo wrong encodings, HTML entities and control characters (ftfy)")
    unicode: UnicodeForm = text(UnicodeForm.NFC, help="Unicode normalization form")
    whitespace: Whitespace = text(Whitespace.collapse, help="trailing: at line ends only, as for code; collapse: runs of blanks as well")


@dataclass(kw_only=True)
class LengthConfig:
    enabled: bool = switch("remove documents by their length")
    least: int = number(0, least=0, help="characters of the shortest document that stays")
    most: int = number(0, least=0, help="characters of the longest document that stays; 0: any")


@dataclass(kw_only=True)
class UrlConfig:
    enabled: bool = switch("remove documents by their address")
    integrated: bool = text(False, help="datatrove's own lists of adult sites: 0.8 GB of memory and half a minute in each worker")
    domains_file: str = text("", help="file of domains and hosts, one a line")
    urls_file: str = text("", help="file of whole addresses, one a line")
    words_file: str = text("", help="file of words that no address may have, one a line")
    subwords_file: str = text("", help="file of parts of words that no address may have, one a line")
    soft_words_file: str = text("", help="file of words of which an address may have a few, one a line")
    soft_words_most: int = number(1, least=0, help="words of soft_words_file that an address may have")


@dataclass(kw_only=True)
class LanguageConfig:
    enabled: bool = switch("remove documents by their language")
    keep: list[str] = items(help="languages that stay, as [en,de] (ISO 639-1); empty: every one that is certain enough")
    least_score: float = part(0.65, help="probability of the language from which on it counts")
    model: str = text("", help="a fastText model file, as lid.176.bin; empty: py3langid's own model")
    characters: int = number(4000, least=1, help="characters from the beginning that are looked at")


@dataclass(kw_only=True)
class GopherQualityConfig:
    enabled: bool = switch("Gopher's quality rules")
    least_words: int = number(50, least=0, help="words")
    most_words: int = number(100_000, least=0, help="words; 0: any number")
    least_mean_word_length: float = number(3, least=0, help="characters")
    most_mean_word_length: float = number(10, least=0, help="characters; 0: any number")
    most_symbols_per_word: float = number(0.1, least=0, help="# or ellipses for each word; 0: any number")
    most_bullet_lines: float = part(0.9, help="part of lines that start with a bullet; 0: all")
    most_ellipsis_lines: float = part(0.3, help="part of lines that end with an ellipsis; 0: all")
    least_alphabetic_words: float = part(0.8, help="part of words with a letter")
    least_stop_words: int = number(2, least=0, help="different stop words")
    stop_words: list[str] = items(["the", "be", "to", "of", "and", "that", "have", "with"], help="in lower case; English unless set")


@dataclass(kw_only=True)
class GopherRepetitionConfig:
    enabled: bool = switch("Gopher's repetition rules")
    duplicate_lines: float = part(0.3, help="part of lines that were there before; 0: all")
    duplicate_paragraphs: float = part(0.3, help="part of paragraphs that were there before; 0: all")
    duplicate_line_characters: float = part(0.2, help="part of characters in such lines; 0: all")
    duplicate_paragraph_characters: float = part(0.2, help="part of characters in such paragraphs; 0: all")
    top_ngrams: list[float] = items([0.2, 0.18, 0.16], help="part of characters in the most frequent 2-, 3-, 4-gram of words")
    duplicate_ngrams: list[float] = items([0.15, 0.14, 0.13, 0.12, 0.11, 0.10], help="the same of repeated 5- to 10-grams")


@dataclass(kw_only=True)
class C4Config:
    enabled: bool = switch("C4's rules for lines, and documents with too little left")
    least_sentences: int = number(5, least=0, help="sentences that must be left")
    least_words_in_line: int = number(3, least=0, help="words of a line that stays")
    longest_word: int = number(1000, least=0, help="characters; a line with a longer word goes; 0: any")
    citations: bool = text(True, help="take out marks as [3] and [edit]")
    terminal_punctuation: bool = text(True, help="lines must end with . ? ! or a quote")
    lorem_ipsum: bool = text(True, help="remove documents with lorem ipsum")
    javascript: bool = text(True, help="remove lines that speak of javascript")
    curly_bracket: bool = text(True, help="remove documents with a {")
    policy: bool = text(True, help="remove lines about cookies, privacy and terms of use")
    paragraphs: bool = text(False, help="mC4's rule: three lines of 200 characters at least")


@dataclass(kw_only=True)
class FineWebConfig:
    enabled: bool = switch("FineWeb's rules against lists")
    least_punctuated_lines: float = part(0.12, help="part of lines that end a sentence")
    most_short_lines: float = part(0.67, help="part of short lines")
    short_line: int = number(30, least=0, help="characters of a short line at most")
    most_duplicate_characters: float = part(0.01, help="part of characters in lines that were there before")
    most_newlines_per_word: float = number(0.3, least=0, help="line ends for each word")


@dataclass(kw_only=True)
class BadWordsConfig:
    enabled: bool = switch("remove documents with a word of a list")
    file: str = text("", help="file of words and phrases, one a line, as the public LDNOOBW list that C4 took; none comes with us")
    whole_words: bool = text(True, help="match whole words only; false for languages without blanks")


@dataclass(kw_only=True)
class CodeConfig:
    enabled: bool = switch("remove generated, minified and encoded files of code (The Stack v2)")
    most_lines: int = number(100_000, least=1, help="lines of a file")
    longest_line: int = number(1000, least=1, help="characters")
    longest_line_of_text: int = number(100_000, least=1, help="characters, in files of text and markup as .md, .html, .json")
    most_mean_line_length: float = number(100, above=0, help="characters")
    least_alphabetic: float = part(0.25, help="part of characters that are letters")
    generated: bool = text(True, help="remove what says in its first five lines that it is generated")
    encoded: bool = text(True, help="remove base64 and hexadecimal data")


@dataclass(kw_only=True)
class PiiConfig:
    enabled: bool = switch("replace personal data")
    emails: bool = text(True, help="replace e-mail addresses")
    email: str = text("email@example.com", help="by what")
    addresses: bool = text(True, help="replace IPv4 addresses")
    address: str = text("22.214.171.124", help="by what")
    public_only: bool = text(True, help="leave private addresses as they are")


@dataclass(kw_only=True)
class DuplicatesConfig:
    exact: bool = switch("remove documents whose text was there before")
    near: bool = switch("remove documents that are nearly equal to an earlier one (MinHash, LSH)")
    similarity: float = number(0.75, least=0, most=1, help="estimated Jaccard similarity of near duplicates; 0: one equal band is enough")
    shingle: int = number(5, least=1, most=64, help="words of an n-gram")
    bands: int = number(14, least=1, most=256, help="bands of MinHashes; documents are compared when one band agrees")
    rows: int = number(8, least=1, most=64, help="MinHashes of a band")
    seed: int = number(0, least=0, most=2**63 - 1, help="of the hashes")


@dataclass(kw_only=True)
class DecontaminationConfig:
    files: list[str] = items(help="evaluation sets, as [test.jsonl]: documents that share a passage with them are removed")
    text_keys: list[str] = items(help="keys of the texts in JSON lines; empty: every text")
    ngram: int = number(13, least=1, most=64, help="words of a shared passage")
    cut: bool = text(False, help="cut the passage and 200 characters around it out, and keep the rest of the document")


@dataclass(kw_only=True)
class CleanConfig:
    name: CleanName = text(CleanName.none, help="the preset: clean=web and the like; each key below may be set on top")
    words: Words = text(Words.regex, help="who splits words: regex (languages with blanks), or datatrove's library for words_language")
    words_language: str = text("en", help="for words=library; what it needs (spaCy and others) must be installed")
    seconds: float = number(60.0, above=0, help="CPU seconds that each started MiB of a document may take")
    examples: int = number(5, least=0, most=1000, help="documents that the report shows of each rule")
    html: HtmlConfig
    normalize: NormalizeConfig
    length: LengthConfig
    url: UrlConfig
    language: LanguageConfig
    gopher_quality: GopherQualityConfig
    gopher_repetition: GopherRepetitionConfig
    c4: C4Config
    fineweb: FineWebConfig
    bad_words: BadWordsConfig
    code: CodeConfig
    pii: PiiConfig
    duplicates: DuplicatesConfig
    decontamination: DecontaminationConfig
