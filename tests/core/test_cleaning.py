"""The keys of `clean` and the settings of the data layer are one list; what contradicts itself is refused with the way out."""

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
from hexareme.conf.clean_schema import CleanConfig
from hexareme.conf.compose import compose
from hexareme.core.cleaning import problems, settings_of
from hexareme.data.clean.cleaner import Cleaner
from hexareme.data.clean.settings import CleanSettings


def config(*overrides: str) -> CleanConfig:
    return compose("prepare", ["input=a", "output=b", *overrides]).clean


def names(schema: type[Any], prefix: str = "") -> set[str]:
    hints = get_type_hints(schema)
    return {name for entry in fields(schema) for name in
            (names(hints[entry.name], f"{prefix}{entry.name}.") if is_dataclass(hints[entry.name]) else {f"{prefix}{entry.name}"})}


def test_keys_and_settings_are_the_same():
    assert names(CleanConfig) - {"name"} == names(CleanSettings)
    assert settings_of(config()) == CleanSettings()


@pytest.mark.parametrize(("preset", "rules"), [
    ("none", "html time_limit"),
    ("deduplicate", "html normalize time_limit"),
    ("web", "html normalize length language gopher_repetition gopher_quality c4 fineweb pii time_limit"),
    ("code", "html normalize code pii time_limit"),
])
def test_presets(preset: str, rules: str):
    chosen = config(f"clean={preset}")
    assert not list(problems(chosen))
    settings = settings_of(chosen)
    assert Cleaner(settings).names == rules.split()
    assert (settings.duplicates.exact, settings.duplicates.near) == (preset != "none",) * 2


@pytest.mark.parametrize(("overrides", "key"), [
    (["clean.bad_words.enabled=true"], "clean.bad_words.file"),
    (["clean.url.enabled=true"], "clean.url.enabled"),
    (["clean.url.enabled=true", "clean.url.urls_file=/none"], "clean.url.urls_file"),
    (["clean.language.enabled=true", "clean.language.model=/none.bin"], "clean.language.model"),
    (["clean.language.enabled=true", "clean.language.keep=[zh]", "clean.fineweb.enabled=true"], "clean.words"),
    (["clean=web", "clean.language.keep=[de]"], "clean.gopher_quality.stop_words"),
    (["clean.length.enabled=true", "clean.length.least=9", "clean.length.most=8"], "clean.length.least"),
    (["clean.gopher_quality.enabled=true", "clean.gopher_quality.most_words=9"], "clean.gopher_quality.least_words"),
    (["clean.gopher_repetition.enabled=true", "clean.gopher_repetition.top_ngrams=[0.2,2]"], "clean.gopher_repetition.top_ngrams"),
])
def test_contradictions(overrides: list[str], key: str):
    found = list(problems(config(*overrides)))
    assert [problem.key for problem in found] == [key]
    assert found[0].do
