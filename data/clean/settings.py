"""Every knob of cleaning, as plain values; `CleanSettings()` cleans nothing but takes the text out of HTML pages.

One section for each rule. The published thresholds are the defaults; what a preset (`clean=web`) does is to switch rules on.
"""

from dataclasses import dataclass, field

# Gopher's, Rae et al. 2021, arXiv:2112.11446, appendix A.1.1.
ENGLISH_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


@dataclass(frozen=True)
class HtmlSettings:
    """Text out of HTML; needed, so always on. `precision`: rather lose text than keep boilerplate."""

    precision: bool = True
    tables: bool = True
    largest_bytes: int = 8 << 20


@dataclass(frozen=True)
class NormalizeSettings:
    """`unicode`: none, NFC or NFKC; `whitespace`: keep, trailing (line ends only) or collapse (runs of blanks as well)."""

    enabled: bool = False
    repair: bool = True
    unicode: str = "NFC"
    whitespace: str = "collapse"


@dataclass(frozen=True)
class LengthSettings:
    """In characters; 0: no limit."""

    enabled: bool = False
    least: int = 0
    most: int = 0


@dataclass(frozen=True)
class UrlSettings:
    """Lists are files with one entry a line; `integrated`: the lists that datatrove carries."""

    enabled: bool = False
    integrated: bool = False
    domains_file: str = ""
    urls_file: str = ""
    words_file: str = ""
    subwords_file: str = ""
    soft_words_file: str = ""
    soft_words_most: int = 1


@dataclass(frozen=True)
class LanguageSettings:
    """`keep`: ISO 639-1 codes, empty keeps every language; `model`: fastText file (lid.176.bin or .ftz), empty: py3langid's model."""

    enabled: bool = False
    keep: tuple[str, ...] = ()
    least_score: float = 0.65
    model: str = ""
    characters: int = 4000


@dataclass(frozen=True)
class GopherQualitySettings:
    """Table A1 of arXiv:2112.11446, as datatrove has it."""

    enabled: bool = False
    least_words: int = 50
    most_words: int = 100_000
    least_mean_word_length: float = 3
    most_mean_word_length: float = 10
    most_symbols_per_word: float = 0.1
    most_bullet_lines: float = 0.9
    most_ellipsis_lines: float = 0.3
    least_alphabetic_words: float = 0.8
    least_stop_words: int = 2
    stop_words: tuple[str, ...] = ENGLISH_STOP_WORDS


@dataclass(frozen=True)
class GopherRepetitionSettings:
    """Fractions of lines, paragraphs and characters; `top_ngrams[i]` is for n = 2 + i, `duplicate_ngrams[i]` for n = 5 + i."""

    enabled: bool = False
    duplicate_lines: float = 0.3
    duplicate_paragraphs: float = 0.3
    duplicate_line_characters: float = 0.2
    duplicate_paragraph_characters: float = 0.2
    top_ngrams: tuple[float, ...] = (0.2, 0.18, 0.16)
    duplicate_ngrams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)


@dataclass(frozen=True)
class C4Settings:
    """Raffel et al. 2020, section 2.2. Lines are removed one by one; `paragraphs` is mC4's rule of three lines of 200 characters."""

    enabled: bool = False
    least_sentences: int = 5
    least_words_in_line: int = 3
    longest_word: int = 1000
    citations: bool = True
    terminal_punctuation: bool = True
    lorem_ipsum: bool = True
    javascript: bool = True
    curly_bracket: bool = True
    policy: bool = True
    paragraphs: bool = False


@dataclass(frozen=True)
class FineWebSettings:
    """Penedo et al. 2024, arXiv:2406.17557, section 3.6."""

    enabled: bool = False
    least_punctuated_lines: float = 0.12
    most_short_lines: float = 0.67
    short_line: int = 30
    most_duplicate_characters: float = 0.01
    most_newlines_per_word: float = 0.3


@dataclass(frozen=True)
class BadWordsSettings:
    """`file`: one word or phrase a line; there is no list without a download."""

    enabled: bool = False
    file: str = ""
    whole_words: bool = True


@dataclass(frozen=True)
class CodeSettings:
    """Heuristics of Codex (arXiv:2107.03374, section 3.1) and The Stack v2 (arXiv:2402.19173)."""

    enabled: bool = False
    most_lines: int = 100_000
    longest_line: int = 1000
    longest_line_of_text: int = 100_000
    most_mean_line_length: float = 100
    least_alphabetic: float = 0.25
    generated: bool = True
    encoded: bool = True


@dataclass(frozen=True)
class PiiSettings:
    """What e-mail addresses and IP addresses become."""

    enabled: bool = False
    emails: bool = True
    email: str = "email@example.com"
    addresses: bool = True
    address: str = "22.214.171.124"
    public_only: bool = True


@dataclass(frozen=True)
class DuplicateSettings:
    """Over the whole corpus, after every other rule. `similarity`: Jaccard, of shingles, from which on texts are near duplicates."""

    exact: bool = False
    near: bool = False
    similarity: float = 0.75
    shingle: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 0


@dataclass(frozen=True)
class DecontaminationSettings:
    """`files`: evaluation sets, text, JSON lines or Parquet; a document that shares `ngram` words in a row with them goes.

    `text_keys`: of the fields to take, empty takes every string; `cut`: only the passage and 200 characters around it go.
    """

    files: tuple[str, ...] = ()
    text_keys: tuple[str, ...] = ()
    ngram: int = 13
    cut: bool = False


@dataclass(frozen=True)
class CleanSettings:
    """Which rules, with which thresholds.

    Args:
        words: who splits text into words and sentences: regex (ours, for languages with blanks between words) or library (datatrove's
            choice for `words_language`: spaCy and others, which must be installed).
        words_language: ISO 639-1 code for `words="library"`.
        seconds: CPU time that each started MiB of a document may take; a document beyond is removed as `time_limit`.
        examples: removed or changed documents that the report keeps of each rule.
    """

    words: str = "regex"
    words_language: str = "en"
    seconds: float = 60.0
    examples: int = 5
    html: HtmlSettings = field(default_factory=HtmlSettings)
    normalize: NormalizeSettings = field(default_factory=NormalizeSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    url: UrlSettings = field(default_factory=UrlSettings)
    language: LanguageSettings = field(default_factory=LanguageSettings)
    gopher_quality: GopherQualitySettings = field(default_factory=GopherQualitySettings)
    gopher_repetition: GopherRepetitionSettings = field(default_factory=GopherRepetitionSettings)
    c4: C4Settings = field(default_factory=C4Settings)
    fineweb: FineWebSettings = field(default_factory=FineWebSettings)
    bad_words: BadWordsSettings = field(default_factory=BadWordsSettings)
    code: CodeSettings = field(default_factory=CodeSettings)
    pii: PiiSettings = field(default_factory=PiiSettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    decontamination: DecontaminationSettings = field(default_factory=DecontaminationSettings)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that decides what stays: another content makes another corpus."""
        found = [self.language.model] if self.language.enabled else []
        found += [self.bad_words.file] if self.bad_words.enabled else []
        if self.url.enabled:
            found += [self.url.domains_file, self.url.urls_file, self.url.words_file, self.url.subwords_file, self.url.soft_words_file]
        return tuple(path for path in [*found, *self.decontamination.files] if path)
