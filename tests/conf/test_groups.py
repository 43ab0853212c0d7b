"""Every YAML file of every group composes, and the families have the sizes that were published."""

from pathlib import Path

import pytest
from hexareme.conf.compose import compose
from hexareme.conf.overrides import CONF, options
from hexareme.conf.registry import COMMANDS
from hexareme.conf.schema import Activation, Normalization, Positions, Precision
from hexareme.core.combine import problems

GROUPS = options("train")
REQUIRED = {"train": ["data.train=corpus"], "prepare": ["input=text", "output=corpus"], "report": ["directory=runs/x"],
            "watch": ["directory=runs/x"], "convert": ["path=runs/x", "output=weights"]}
EVERY = [(command, group, name) for command, entry in COMMANDS.items() if not entry.like
         for group, names in options(command).items() for name in names]


@pytest.mark.parametrize(("command", "group", "name"), EVERY)
def test_every_file_composes(command, group, name):
    compose(command, [*REQUIRED.get(command, []), f"{group}={name}"])


def test_no_file_is_outside_of_a_group():
    grouped = {Path(group, f"{name}.yaml") for _, group, name in EVERY}
    primary = {Path(f"{entry.like or command}.yaml") for command, entry in COMMANDS.items()}
    assert {path.relative_to(CONF) for path in CONF.rglob("*.yaml")} == grouped | primary


def test_every_file_says_what_it_is():
    assert not [path for group in GROUPS for path in (CONF / group).glob("*.yaml") if not path.read_text().startswith("#")]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_composes_alone(command):
    compose(command, REQUIRED.get(command, []))


# World sizes as the comments of the recipes say.
@pytest.mark.parametrize(("name", "world_size"), [("debug", 2), ("quickstart", 2), ("gpt2_124m", 8), ("gpt2_1_5b", 8), ("llama_1b", 8),
                                                  ("llama_8b", 64), ("llama_70b", 256), ("mixtral_8x7b", 128)])
def test_recipes_can_start_where_they_say(name, world_size):
    config = compose("train", ["data.train=corpus", f"experiment={name}"])
    assert problems(config, world_size=world_size) == []
    assert config.run.name == name
    assert name in ("debug", "quickstart") or config.train.precision is Precision.bf16


def test_all_recipes_are_tried():
    assert len(GROUPS["experiment"]) == 8


def num_parameters(m):
    """Counted from the papers' definitions, layer by layer."""
    head_dim = m.hidden_size // m.num_heads
    bias = int(m.bias)
    norm = m.hidden_size * (2 if m.normalization is Normalization.layernorm else 1)
    qkv = (m.hidden_size + bias) * head_dim * (m.num_heads + 2 * m.num_kv_heads)
    output = (m.hidden_size + bias) * m.hidden_size
    up = (m.hidden_size + bias) * m.ffn_hidden_size * (2 if m.activation is Activation.swiglu else 1)
    down = (m.ffn_hidden_size + bias) * m.hidden_size
    embeddings = m.vocab_size * m.hidden_size * (1 if m.tie_embeddings else 2)
    positions = m.sequence_length * m.hidden_size if m.positions is Positions.learned else 0
    return embeddings + positions + m.num_layers * (qkv + output + up + down + 2 * norm) + norm


# Published: the safetensors headers of Hugging Face's openai-community/gpt2*, meta-llama/Llama-3.2-1B, Llama-3.1-8B, Llama-3.1-70B.
@pytest.mark.parametrize(("name", "published"), [
    ("gpt2_124m", 124_439_808), ("gpt2_355m", 354_823_168), ("gpt2_774m", 774_030_080), ("gpt2_1_5b", 1_557_611_200),
    ("llama_1b", 1_235_814_400), ("llama_8b", 8_030_261_248), ("llama_70b", 70_553_706_496),
])
def test_families_have_their_published_number_of_parameters(name, published):
    assert num_parameters(compose("train", ["data.train=corpus", f"model={name}"]).model) == published
