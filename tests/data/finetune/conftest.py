"""A small real tokenizer with markers for chats, and conversations out of this Python's own source."""

import json
import random
import sysconfig
from pathlib import Path

import pytest

MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]


def source_text() -> str:
    return (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()


def conversations(count: int, *, seed: int = 0, median: float = 20.0) -> list[dict]:
    """Of one to three turns, some with a system message; lengths as of real ones: log-normal."""
    draw, words = random.Random(seed), source_text().split()

    def text() -> str:
        return " ".join(draw.choices(words, k=max(1, int(median * draw.lognormvariate(0, 0.8)))))

    found = []
    for number in range(count):
        messages = [{"role": "system", "content": text()}] if number % 4 == 0 else []
        for _ in range(1 + number % 3):
            messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        found.append({"messages": messages})
    return found


def write_lines(file: Path, records: list) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture(scope="session")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE as Hugging Face writes it, with a template of its own that does not mark answers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=MARKERS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator([source_text()], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": {"content": "<|im_end|>", "special": True},
        "chat_template": PLAIN_CHATML}))
    return folder


# As Qwen 2 ships it: nothing says which part is an answer.
PLAIN_CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
                "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
