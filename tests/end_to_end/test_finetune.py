"""Fine-tuning as a user does it: prepare, train; and the loss of packed rows is that of each example alone."""

from pathlib import Path

import pytest
from hexareme.conf.compose import load_yaml
from hexareme.data.finetune.packed import PackedSet, open_packed

from tests.core.reference import build, hugging_face, to_hugging_face
from tests.data.finetune.conftest import chat_tokenizer, conversations, write_lines
from tests.ranks import run_single

__all__ = ["chat_tokenizer"]  # a fixture of another folder

S = 96


@pytest.fixture(scope="module")
def chat_corpus(chat_tokenizer, tmp_path_factory) -> Path:
    from .user import User

    user = User(tmp_path_factory.mktemp("chat"))
    write_lines(user.folder / "a.jsonl", conversations(60, median=4))
    code, out, err = user.hexareme("prepare", "input=a.jsonl", "output=chat", "task=chat", "task.template=chatml",
                                   f"task.sequence_length={S}", "tokenizer.kind=huggingface",
                                   f"tokenizer.path={chat_tokenizer}", "held_out=0.1", "workers=1")
    assert code == 0, out + err
    assert "% " in out and "dropped" in out
    return user.folder / "chat"


def alone(rank: int, config, seed: int, corpus: str, samples: range) -> float:
    """Mean loss over the learned tokens of these rows' examples, one forward pass of Hugging Face's GPT-2 for each example."""
    import torch
    from torch.nn.functional import cross_entropy

    reference = hugging_face(config)
    reference.load_state_dict(to_hugging_face(config, dict(build(config, seed=seed).named_parameters())), strict=False)
    packed = open_packed(corpus)
    rows = PackedSet([(packed, 1.0)], sequence_length=S, seed=seed)
    total, count = 0.0, 0
    for index in samples:
        for document in rows.sample(index).document_ids:
            start = int(packed.tokens.document_start(document))
            ids = torch.from_numpy(packed.tokens.document(document).astype("int64"))
            mask = torch.from_numpy(packed.mask.read(start, len(ids)).astype("float32"))
            with torch.no_grad():
                logits = reference(ids[None]).logits[0]
            total += float((cross_entropy(logits[:-1], ids[1:], reduction="none") * mask[1:]).sum())
            count += int(mask[1:].sum())
    return total / count


def test_the_first_loss_is_that_of_each_example_alone(chat_corpus, user):
    code, out, err = user.hexareme("train", "experiment=debug", f"data.train={chat_corpus}", f"model.sequence_length={S}", "run.name=chat",
                                   "train.steps=2", "schedule.warmup_steps=0", "checkpoint.interval=0", "evaluation.interval=1")
    assert code == 0, out + err
    rows = user.metrics("chat")
    config = load_yaml(user.folder / "runs" / "chat" / "config.yaml")
    first = next(row["loss"] for row in rows if row["step"] == 1 and "loss" in row)
    size = config.batch.global_size
    assert first == pytest.approx(run_single(alone, config.model, config.train.seed, str(chat_corpus), range(size)), rel=2e-6)
    assert sum("validation_loss" in row for row in rows) == 2
