"""`hexareme prepare`: what it prints, and what it refuses before it reads anything."""

import json

import pytest
from hexareme.conf.errors import ConfigError
from hexareme.data.tokens.token_file import open_corpus
from hexareme.launcher.commands import prepare as command


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


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["input=a", "output=b", "clean=web"], "clean"),
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
