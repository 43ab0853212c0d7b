"""Records: each common form gives its conversation, and whatever is broken has a cause."""

import pytest
from hexareme.data.finetune.records import conversation, labelled, preference
from hexareme.data.finetune.refusal import RecordRefusedError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("record", [
    {"messages": [USER, ANSWER]},
    {"prompt": "q", "completion": "a"},
    {"prompt": [USER], "completion": [ANSWER]},
    {"instruction": "q", "output": "a"},
    {"instruction": "q", "input": "", "output": "a"},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
])
def test_every_form_is_the_same_conversation(record):
    assert conversation(record).messages == [USER, ANSWER]


def test_an_instruction_with_input_and_system():
    found = conversation({"instruction": "add", "input": "1 2", "output": "3", "system": "s"}).messages
    assert [(each["role"], each["content"]) for each in found] == [("system", "s"), ("user", "add\n\n1 2"), ("assistant", "3")]


def test_tools_may_be_a_text():
    assert conversation({"messages": [USER, ANSWER], "tools": '[{"name": "t"}]'}).tools == [{"name": "t"}]


@pytest.mark.parametrize(("record", "cause"), [
    ({"text": "x"}, "missing_key"), ({"messages": "x"}, "wrong_type"), ({"messages": []}, "no_answer"), ({"messages": [USER]}, "no_answer"),
    ({"messages": [{"content": "x"}]}, "wrong_type"), ({"messages": [{"role": "user", "content": 3}]}, "wrong_type"),
    ({"messages": ["x"]}, "wrong_type"), ({"instruction": 1, "output": "a"}, "wrong_type"), ({"conversations": {}}, "wrong_type"),
    ({"conversations": [{"from": "cat", "value": "m"}]}, "wrong_type"), ({"messages": [USER, ANSWER], "tools": "{["}, "broken_tools"),
    ({"messages": [USER, ANSWER], "tools": [1]}, "wrong_type"),
])
def test_what_is_no_conversation_has_a_cause(record, cause):
    with pytest.raises(RecordRefusedError, match=cause):
        conversation(record)


def test_pairs_in_each_form():
    other = {"role": "assistant", "content": "b"}
    for record in ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"chosen": [USER, ANSWER], "rejected": [USER, other]},
                   {"prompt": [USER], "chosen": [ANSWER], "rejected": [other]}):
        chosen, rejected = preference(record)
        assert chosen.messages == [USER, ANSWER] and rejected.messages == [USER, other]


@pytest.mark.parametrize(("record", "cause"), [
    ({"prompt": "q", "chosen": "a"}, "missing_key"), ({"prompt": "q", "chosen": "a", "rejected": "a"}, "equal_answers"),
    ({"chosen": "a", "rejected": "b"}, "no_prompt"), ({"prompt": "q", "chosen": "a", "rejected": 3}, "wrong_type"),
    ({"prompt": "q", "chosen": [ANSWER], "rejected": [USER]}, "no_answer"),
])
def test_what_is_no_pair_has_a_cause(record, cause):
    with pytest.raises(RecordRefusedError, match=cause):
        preference(record)


def test_labels():
    assert labelled({"text": "x", "label": 3}, "text", "label") == ("x", 3)
    bad = [({"text": "x"}, "missing_key"), ({"text": "x", "label": 1.5}, "wrong_type"), ({"text": 1, "label": 1}, "wrong_type")]
    for record, cause in bad:
        with pytest.raises(RecordRefusedError, match=cause):
            labelled(record, "text", "label")
