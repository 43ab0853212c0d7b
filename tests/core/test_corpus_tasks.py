"""Corpora of examples: what a run may train on, before any rank is started."""

from dataclasses import replace

import pytest
from hexareme.conf.compose import compose
from hexareme.core.corpora import corpus_problems
from hexareme.data.tokens.description import TaskDescription, write_description

from ..data.token_files import write_corpus


def corpus(folder, **task):
    description = write_corpus(folder, [[1, 2, 3]] * 40)
    write_description(folder, replace(description, task=TaskDescription(**task)))
    return str(folder)


@pytest.mark.parametrize(("task", "override", "named"), [
    ({"kind": "chat", "sequence_length": 64}, [], ""),
    ({"kind": "chat", "sequence_length": 32}, [], "rows were packed for 32 tokens"),
    ({"kind": "chat", "sequence_length": 64}, ["data.document_mask=false"], "attend to each other"),
    ({"kind": "chat", "sequence_length": 64}, ["data.stages=[{from_step: 5, sequence_length: 32}]"], "cut packed examples"),
    ({"kind": "classification"}, [], "task=classification: the training head for it comes with a later release"),
    ({"kind": "preference"}, [], "task=preference: the training head for it comes with a later release"),
    ({"kind": "text"}, ["data.document_mask=false"], ""),
])
def test_what_cannot_be_trained_is_refused_by_name(task, override, named, tmp_path):
    config = compose("train", ["experiment=debug", f"data.train={corpus(tmp_path / 'c', **task)}", "model.vocab_size=1000", *override])
    found = [problem.message for problem in corpus_problems(config)]
    assert len(found) == bool(named) and all(named in message for message in found)


def test_text_and_conversations_do_not_mix(tmp_path):
    paths = f"[{corpus(tmp_path / 'a')},{corpus(tmp_path / 'b', kind='chat', sequence_length=64)}]"
    config = compose("train", ["experiment=debug", f"data.train={paths}", "model.vocab_size=1000"])
    assert [problem.message for problem in corpus_problems(config)] == ["mixes text with packed conversations"]
