"""Records of every kind of file: lines, however many, and arrays as Alpaca and ShareGPT have them; what is no object has a cause."""

import json

import pytest
from hexareme.data.finetune.reading import records, task_chunks
from hexareme.data.prepare.tally import Result
from hexareme.data.sources.chunk import Place
from hexareme.data.sources.find import find_sources

EXAMPLES = [{"instruction": f"add {n} and é", "output": "x" * 200, "n": n} for n in range(1000)]


def read(path):
    result = Result()
    return [each for chunk in task_chunks(find_sources([str(path)]).sources, Place()) for each in records(chunk, result)], result


LINES = "\n".join(map(json.dumps, EXAMPLES))


@pytest.mark.parametrize(("name", "text"), [
    ("a.jsonl", LINES), ("lines.json", LINES), ("a.json", json.dumps(EXAMPLES, indent=1)), ("one_line.json", json.dumps(EXAMPLES)),
])
def test_lines_and_arrays_hold_the_same_records(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    found, result = read(tmp_path / name)
    assert [record for record, _, _ in found] == EXAMPLES
    assert {file for _, file, _ in found} == {str(tmp_path / name)} and [line for _, _, line in found] == list(range(1, 1001))
    assert result.tally.records == 1000 and not result.rejects


def test_what_is_no_object_has_a_cause(tmp_path):
    for content, causes in {b'[{"a": 1}, 2, []]': ["not_an_object"] * 2, b"[{": ["broken_json"], b'["\xff"]': ["invalid_utf8"]}.items():
        (tmp_path / "a.json").write_bytes(content)
        _, result = read(tmp_path / "a.json")
        assert [reject.cause for reject in result.rejects] == causes
