"""The strings of an evaluation set, whatever its size and spelling of JSON."""

import json
from pathlib import Path

import pytest
from hexareme.data.clean.evaluation_sets import evaluation_texts
from hexareme.data.errors import DataError

QUESTIONS = [{"question": f"what is {number}? " * 5, "answer": {"text": ["a", "b"]}} for number in range(1000)]
STRINGS = [text for each in QUESTIONS for text in (each["question"], "a", "b")]


def test_lines_and_one_value_hold_the_same_strings(tmp_path: Path):
    lines = "\n".join(json.dumps(each) for each in QUESTIONS)
    whole = json.dumps({"data": QUESTIONS}, indent=1)
    contents = {"a.jsonl": lines, "lines.json": lines, "array.json": json.dumps(QUESTIONS), "one.json": whole}
    for name, content in contents.items():
        assert len(content) > 1 << 16
        (tmp_path / name).write_text(content)
        assert list(evaluation_texts(str(tmp_path / name))) == STRINGS
    chosen = [text for text in STRINGS if text not in "ab"]
    for name in ("a.jsonl", "array.json"):
        assert list(evaluation_texts(str(tmp_path / name), ("question",))) == chosen


def test_a_damaged_one_is_named(tmp_path: Path):
    (tmp_path / "a.json").write_text("[1,\n2")
    with pytest.raises(DataError, match=r"a\.json:1 of an evaluation set: broken_json"):
        list(evaluation_texts(str(tmp_path / "a.json")))
