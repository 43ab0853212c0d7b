"""Names, places and locales that few have: none of them costs a corpus, or ends in a traceback."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hexareme.data.clean.settings import CleanSettings, DecontaminationSettings
from hexareme.data.errors import DataError
from hexareme.data.prepare.prepare import Recipe, prepare
from hexareme.data.tokenizer.tokenizer import load_tokenizer

RECIPE = Recipe(tokenizer_kind="byte_bpe", vocab_size=300, held_out=0.0)
MARK = "<｜mark｜>"
# The report has an example of each odd name, the tokenizer's description a token that is no ASCII.
ASCII_ONLY = """
import sys
from hexareme.data.clean.settings import CleanSettings, NormalizeSettings
from hexareme.data.prepare.prepare import Recipe, prepare
assert open(sys.argv[1] + "/plain.txt").encoding in ("ANSI_X3.4-1968", "ascii", "US-ASCII")
clean = CleanSettings(normalize=NormalizeSettings(enabled=True, repair=False))
recipe = Recipe(tokenizer_kind="byte_bpe", vocab_size=300, held_out=0.0, special_tokens=(ascii_mark,), clean=clean)
prepare([sys.argv[1]], sys.argv[2], recipe, workers=1)
"""


def test_file_names_that_are_no_text_in_a_locale_of_ascii(tmp_path: Path):
    source = tmp_path / "texts"
    source.mkdir()
    (source / "plain.txt").write_text("a  plain  text")
    with open(os.fsencode(source) + b"/latin-\xe9.txt", "w") as file:
        file.write("another  text")
    script = ASCII_ONLY.replace("ascii_mark", ascii(MARK))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script, source, tmp_path / "corpus"], env=environment, check=True)
    assert "latin-\\udce9.txt" in (tmp_path / "corpus" / "clean_report.html").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "corpus" / "clean_report.json").read_text())
    changed = next(rule for rule in report["rules"] if rule["rule"] == "normalize")["changed_examples"]
    assert {Path(each["file"]) for each in changed} == set(source.iterdir())
    assert MARK in load_tokenizer(tmp_path / "corpus").special_tokens


def test_an_output_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text")
    for output in ("a.txt", "a.txt/below"):
        with pytest.raises(DataError, match="cannot be made a folder"):
            prepare([str(tmp_path / "a.txt")], tmp_path / output, RECIPE, workers=1)


def test_evaluation_sets_by_pattern_count_as_what_the_corpus_is_made_of(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"document {n} of the corpus"}) + "\n" for n in range(20)))
    (tmp_path / "sets").mkdir()
    for name in ("one", "two"):
        (tmp_path / "sets" / f"{name}.txt").write_text(f"{name} two three four")

    def made(file: str) -> bool:
        clean = CleanSettings(decontamination=DecontaminationSettings(files=(str(tmp_path / file),), ngram=3))
        return prepare([str(tmp_path / "a.jsonl")], tmp_path / "corpus", replace(RECIPE, clean=clean), workers=1).reused

    with pytest.raises(DataError, match=r"^clean\.decontamination\.files: .*missing\.txt does not exist"):
        made("missing.txt")
    assert [made("sets/*.txt"), made("sets/*.txt")] == [False, True]
    (tmp_path / "sets" / "two.txt").write_text("document 7 of three four")
    with pytest.raises(DataError, match=r"other settings \(also_read differ"):
        made("sets/*.txt")
