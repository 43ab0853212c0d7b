"""What a step is said to be made of: raw files and lines that hold those tokens, also where several corpora are one stream."""

import json
from pathlib import Path

import pytest
from hexareme.conf.compose import compose, dump_yaml
from hexareme.core.explain_lines import raw_place
from hexareme.data.prepare.prepare import Recipe, prepare
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.token_file import open_corpus
from hexareme.launcher import cli

from tests.data.token_files import random_documents, write_tokens

LENGTH = 32


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Two corpora of short documents, each from two files; the second has the first one's tokenizer."""
    place, given = tmp_path_factory.mktemp("raw"), Recipe(tokenizer_kind="byte_bpe", vocab_size=300)
    for number in range(2):
        files = [place / f"{number}-{name}.jsonl" for name in "ab"]
        for file in files:
            file.write_text("".join(json.dumps({"text": f"{file.name} has é {n} " * (n % 9 + 1)}) + "\n" for n in range(60)))
        prepare([*map(str, files)], place / f"corpus-{number}", given, workers=1)
        given = Recipe(tokenizer_kind="huggingface", tokenizer_path=str(place / "corpus-0" / "tokenizer"))
    return place


def explained(folder: Path, train: str, capsys) -> tuple[list[dict], str]:
    """The samples of step 2 of a run that has not begun, and what is printed."""
    config = compose("train", ["experiment=debug", f"data.train={train}", "data.validation=''", f"model.sequence_length={LENGTH}",
                               f"run.directory={folder}"])
    (folder / "config.yaml").write_text(dump_yaml(config))
    assert cli.main(["inspect", f"directory={folder}", "step=2", f"output={folder / 'out.json'}"]) == 0
    return json.loads((folder / "out.json").read_text())["samples"], capsys.readouterr().out


@pytest.mark.parametrize("spelling", ["{0}/corpus-0", "'{0}/corpus-0|{0}/corpus-1'"])
def test_each_span_is_tokens_of_the_line_that_is_named(raw, tmp_path, capsys, spelling):
    samples, printed = explained(tmp_path, spelling.format(raw), capsys)
    tokenizer = load_tokenizer(raw / "corpus-0")
    stream, spans = open_corpus(spelling.format(raw).strip("'")), [span for sample in samples for span in sample["spans"]]
    assert len(spans) > 8
    for span in spans:
        text = json.loads(Path(span["file"]).read_text().split("\n")[span["line"] - 1])["text"]
        ids = [*tokenizer.encode(text), tokenizer.end_of_document][span["offset"] :][: span["tokens"]]
        assert stream.read(span["position"], span["tokens"]).tolist() == ids
        with Path(span["bin"]).open("rb") as file:
            file.seek(span["byte"])
            assert file.read(2 * len(ids)) == b"".join(id.to_bytes(2, "little") for id in ids)
    for span in samples[0]["spans"][:6]:
        assert f"document {span['document']}" in printed and f": {span['file']}:{span['line']}" in printed


def test_token_files_know_no_raw_files(tmp_path, capsys):
    write_tokens(tmp_path / "t", random_documents(300, 20, 250))
    samples, printed = explained(tmp_path, str(tmp_path / "t"), capsys)
    assert {(span["file"], span["line"]) for sample in samples for span in sample["spans"]} == {(None, None)}
    assert "    documents " in printed and "not known" not in printed


def test_a_corpus_shows_where_its_samples_are_from(raw, tmp_path, capsys):
    assert cli.main(["inspect", f"corpus={raw / 'corpus-1'}", f"output={tmp_path / 'out.json'}"]) == 0
    printed = capsys.readouterr().out
    for sample in json.loads((tmp_path / "out.json").read_text())["samples"]:
        text = json.loads(Path(sample["file"]).read_text().split("\n")[sample["line"] - 1])["text"]
        assert text.startswith(sample["text"].removesuffix("<|endoftext|>")[:20])
        assert f"document {sample['document']} ({sample['file']}:{sample['line']}): " in printed


@pytest.mark.parametrize("name", ["train.file.bin", "train.line.bin", "sources.jsonl"])
def test_a_corpus_whose_origins_are_damaged_is_not_whole(raw, capsys, name):
    file = raw / "corpus-1" / name
    good = file.read_bytes()
    try:
        file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        assert cli.main(["inspect", f"corpus={raw / 'corpus-1'}"]) == 1
        assert f"{name} block 0 (bytes 0 to {len(good)}) does not have its checksum" in capsys.readouterr().out
    finally:
        file.write_bytes(good)


def test_names_that_no_terminal_can_show():
    assert raw_place("/a\n\udce9é.txt", 3) == "/a\\n\\udce9é.txt:3"
