"""`hexareme prepare`: what it prints, and what it refuses before it reads anything."""

import json

import pytest
from hexareme.conf.errors import ConfigError
from hexareme.data.tokens.token_file import open_corpus
from hexareme.launcher.commands import prepare as command
from hexareme.launcher.prepare_progress import Meter


def test_the_command(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"document {i}, about nothing in particular"}) + "\n" for i in range(300)))
    corpus = tmp_path / "corpus"
    overrides = [f"input={file}", f"output={corpus}", "tokenizer.kind=byte_bpe", "tokenizer.vocab_size=300", "workers=1"]
    assert command.main(overrides) == 0
    shown = capsys.readouterr()
    assert f"hexareme train data.train={corpus}" in shown.out
    assert "bytes/token" in shown.out and "MB/s" in shown.out
    assert "prepare: tokenizing" in shown.err
    assert command.main(overrides) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert open_corpus(corpus, "validation").num_documents >= 1


def test_cleaning_is_shown_rule_by_rule(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    texts = [f"document {i}, about nothing in particular {'word ' * (i % 50)}" for i in range(200)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, *texts[:20]]))
    overrides = [f"input=[{{path: {file}, format: jsonl}}]", f"output={tmp_path / 'corpus'}", "tokenizer.kind=byte_bpe",
                 "tokenizer.vocab_size=300", "workers=2", "clean=deduplicate", "clean.duplicates.near=false"]
    assert command.main(overrides) == 0
    shown = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line.strip()}
    assert rows["exact_duplicates"][:2] == ["220", "20"] and rows["all"][:2] == ["220", "20"]
    assert "clean_report.html" in shown.out and "prepare: cleaning" in shown.err
    report = json.loads((tmp_path / "corpus" / "clean_report.json").read_text())
    corpus = tmp_path / "corpus"
    assert report["documents_in"] == 220
    assert report["documents_out"] == 200 == sum(open_corpus(corpus, part).num_documents for part in ("train", "validation"))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["input=a", "output=b", "clean=web", "clean.bad_words.enabled=true"], "clean.bad_words.file"),
        (["input=a", "output=b", "tokenizer.kind=huggingface"], "tokenizer.path"),
        (["input=a", "output=b", "tokenizer.path=x"], "tokenizer.path"),
        (["input=[]", "output=b"], "input"),
        (["input=[3]", "output=b"], "input"),
        (["input=a", "output=b", "tokenizer.kind=word"], "tokenizer.kind"),
        (["input=a", "output=b", "held_out=1"], "held_out"),
    ],
)
def test_settings_that_cannot_be(overrides, key):
    with pytest.raises(ConfigError) as caught:
        command.main(overrides)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_a_pass_that_reads_no_text_shows_no_pace_of_text():
    meter = Meter("looking for duplicates", 200, lambda: 0.0)
    meter.add(50, 0, 0)
    assert meter.line() == "prepare: looking for duplicates 25 %, 0 s left"
    meter.add(50, 3, 10)
    assert meter.line().startswith("prepare: looking for duplicates 50 %, 3 documents, ")
