"""Which language a text is in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ..errors import DataError
from .needs import need_file, need_library
from .rule import Page, Refused
from .settings import LanguageSettings


class Identifier(Protocol):
    """A model: the languages it knows, and the probability of each for a text."""

    @property
    def languages(self) -> set[str]: ...

    def scores(self, text: str) -> Mapping[str, float]: ...


class Py3LangId:
    """py3langid's own model: 1 MB inside the package, so it needs no download."""

    def __init__(self) -> None:
        need_library("py3langid", "clean.language")
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    @property
    def languages(self) -> set[str]:
        return set(self._model.labels)

    def scores(self, text: str) -> Mapping[str, float]:
        return dict(self._model.rank(text))


class FastText:
    """A classifier of fastText's, as lid.176.bin or lid.176.ftz, from a file."""

    def __init__(self, path: Path) -> None:
        need_library("fasttext", "clean.language.model")
        from fasttext.FastText import _FastText

        try:
            self._model = _FastText(str(path))
            self._labels = self._model.get_labels()
        except (ValueError, RuntimeError, MemoryError) as error:
            message = f"clean.language.model={path} cannot be read: {error}"
            raise DataError(message, do="name a fastText model for languages, as lid.176.bin", file=path) from error

    @property
    def languages(self) -> set[str]:
        return {_code(label) for label in self._labels}

    def scores(self, text: str) -> Mapping[str, float]:
        # the raw binding: the public `predict` refuses line ends, and this is what it calls
        labels, scores = self._model.predict(text.replace("\n", " "), k=-1)
        return {_code(label): float(score) for label, score in zip(labels, scores, strict=True)}


class Language:
    """Keeps what is most likely in one of the languages wanted.

    Raises:
        DataError: the model is missing, damaged or does not know a language.
    """

    name = "language"

    def __init__(self, settings: LanguageSettings) -> None:
        self._settings = settings
        model: Identifier = FastText(need_file(settings.model, "clean.language.model")) if settings.model else Py3LangId()
        self._model = model
        unknown = sorted(set(settings.keep) - model.languages)
        if unknown:
            known = " ".join(sorted(model.languages))
            message = f"clean.language.keep has {', '.join(unknown)}, which the model does not know"
            raise DataError(message, do=f"take some of: {known}")

    def __call__(self, page: Page) -> str | Refused:
        # The beginning is enough, and the end of a text in another language is no reason to lose it.
        text = page.text[: self._settings.characters].encode(errors="replace").decode()
        scores = self._model.scores(text)
        if not scores:
            return Refused("unknown")
        language, score = max(scores.items(), key=lambda pair: pair[1])
        wanted = max(scores.get(code, 0.0) for code in self._settings.keep) if self._settings.keep else score
        if wanted >= self._settings.least_score:
            return page.text
        return Refused("uncertain" if score < self._settings.least_score else language)


def _code(label: str) -> str:
    """The language of a label, as en of __label__en."""
    return label.removeprefix("__label__")
