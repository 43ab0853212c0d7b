"""Chat templates: the text, the ids and the masks of transformers' own `apply_chat_template`, and nothing gets out of the sandbox."""

import json
from datetime import date

import pytest
from hexareme.data.errors import DataError
from hexareme.data.finetune.builtin_templates import BUILT_IN
from hexareme.data.finetune.chat_encoder import load_chat_encoder
from hexareme.data.finetune.examples import ExampleMaker
from hexareme.data.finetune.records import Conversation
from hexareme.data.finetune.refusal import RecordRefusedError
from hexareme.data.finetune.template import ChatTemplate
from hexareme.data.finetune.tokenizer_folder import template_sources, template_variables
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import PLAIN_CHATML

TOOLS = [{"type": "function", "function": {"name": "time", "description": "<now> & then", "parameters": {"type": "object"}}}]
CALL = {"role": "assistant", "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "time", "arguments": {"zone": "ü"}}}]}

# What the templates of the model families are made of: namespaces, loop variables, filters, macros, white-space control, dates.
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|im_start|>system\\n\\nToday Date: " + date_string + "\\n" }}
{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}{%- endif %}
{{- system }}{{- "<|im_end|>" }}
{%- for message in messages %}
    {%- if not message.role == 'tool' and not 'tool_calls' in message %}
        {{- '<|im_start|>' + message['role'] + '\\n\\n'+ message['content'] | trim + '<|im_end|>' }}
    {%- elif 'tool_calls' in message %}
        {{- '<|im_start|>assistant\\n\\n' }}{{- '{"name": "' + message.tool_calls[0].function.name + '", "parameters": ' }}
        {{- message.tool_calls[0].function.arguments | tojson }}{{- "}<|im_end|>" }}
    {%- else %}{{- "<|im_start|>ipython\\n\\n" + message.content + "<|im_end|>" }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}"""
MISTRAL = """{{ bos_token }}{% set ns = namespace(index=0) %}{% for message in messages %}
{% if (message['role'] == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set ns.index = ns.index + 1 %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% else %}{{ ' ' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}
{% if loop.last %}{% break %}{% endif %}{% endfor %}"""
TEMPLATES = {**BUILT_IN, "qwen": PLAIN_CHATML, "llama": LLAMA, "mistral": MISTRAL}
MARKED = ("chatml", "plain", "completion", "mistral")

TEXT = st.text(st.one_of(st.sampled_from("ab \n<|>é😀\t"), st.characters(exclude_categories=["Cs"])), max_size=30)


def theirs(folder, source):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="<|im_end|>")
    tokenizer.chat_template = source
    return tokenizer


def maker(folder, source, *, last_only=False):
    tokenizer = load_tokenizer(folder)
    variables = template_variables(folder, tokenizer)
    template = ChatTemplate(source, variables=variables, today=date.today())
    return ExampleMaker(template, template, load_chat_encoder(folder, tokenizer, variables), tokenizer, last_only=last_only)


def chat(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_masks_are_those_of_transformers(name, chat_tokenizer):
    reference, ours = theirs(chat_tokenizer, TEMPLATES[name]), maker(chat_tokenizer, TEMPLATES[name])

    @settings(max_examples=15, deadline=None)
    @given(st.lists(TEXT, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0 and any(texts)))
    def compare(texts):
        messages = chat(*texts)
        expected = reference.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=name in MARKED)
        found = ours.example(Conversation(messages))
        assert found.ids.tolist() == expected["input_ids"]
        if name in MARKED:
            assert found.mask.tolist() == expected["assistant_masks"]

    compare()


@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_tools_and_calls_render_as_in_transformers(name, chat_tokenizer):
    messages = [{"role": "system", "content": " Be <b> brief. "}, *chat("What time?"), CALL, {"role": "tool", "content": "12:00"},
                {"role": "assistant", "content": "Noon."}]
    expected = theirs(chat_tokenizer, TEMPLATES[name]).apply_chat_template(messages, tools=TOOLS)["input_ids"]
    found = maker(chat_tokenizer, TEMPLATES[name]).example(Conversation(messages, TOOLS))
    assert found.ids.tolist() == expected
    learned = load_tokenizer(chat_tokenizer).decode(found.ids[found.mask == 1].tolist())
    assert "Noon." in learned and "time" in learned and "12:00" not in learned


def test_answers_found_by_prefixes_are_those_that_are_marked(chat_tokenizer):
    """The same template with and without marks; without, the line feed after an answer belongs to it."""
    messages = chat("a", "b é", "c", "d\n e")
    marked, found = (maker(chat_tokenizer, source).example(Conversation(messages)) for source in (BUILT_IN["chatml"], PLAIN_CHATML))
    assert found.ids.tolist() == marked.ids.tolist()
    feeds = (marked.mask == 0) & (found.mask == 1)
    assert (found.mask >= marked.mask).all() and feeds.sum() == 2
    assert load_tokenizer(chat_tokenizer).decode(found.ids[feeds].tolist()) == "\n\n"


@pytest.mark.parametrize("source", [BUILT_IN["chatml"], PLAIN_CHATML])
def test_only_the_last_answer(source, chat_tokenizer):
    found = maker(chat_tokenizer, source, last_only=True).example(Conversation(chat("a", "first", "c", "second")))
    learned = load_tokenizer(chat_tokenizer).decode(found.ids[found.mask == 1].tolist())
    assert learned.strip() == "second"


def test_a_template_that_rewrites_earlier_turns_is_refused_but_for_the_last(chat_tokenizer):
    """As templates do that drop the thoughts of all turns but the last."""
    source = PLAIN_CHATML.replace("message['content']", "(message['content'] if loop.last else message['content'][:1])")
    with pytest.raises(RecordRefusedError, match="template_rewrites_turns"):
        maker(chat_tokenizer, source).example(Conversation(chat("ab", "cd", "ef", "gh")))
    wrong_end = PLAIN_CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}?")
    with pytest.raises(RecordRefusedError, match="template_rewrites_turns"):
        maker(chat_tokenizer, wrong_end, last_only=True).example(Conversation(chat("ab", "cd")))


def test_a_token_across_the_border_is_refused(chat_tokenizer):
    """`sel` + `f` is one token of this tokenizer: neither the prompt nor the answer."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(RecordRefusedError, match="answer_joins_prompt"):
        maker(chat_tokenizer, source).example(Conversation(chat("sel", "f")))


@pytest.mark.parametrize("source", ["{{ ''.__class__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}",
                                    "{{ ().__class__.__bases__[0].__subclasses__() }}", "{{ raise_exception.__globals__ }}",
                                    "{% set n = namespace() %}{% set n.__class__ = 1 %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}",
                                    "{{ missing.key }}", "{{ strftime_now('%Y') }}", "{{ messages[9].content + 1 }}"])
def test_whatever_a_template_does_only_the_record_is_refused(source):
    template = ChatTemplate(source, variables={})
    try:
        rendered = template.render(chat("a", "b")).text
    except RecordRefusedError:
        return
    assert rendered == "" and "__" in source  # what the sandbox hides is undefined and renders to nothing


def test_a_broken_template_is_an_error_with_its_line():
    with pytest.raises(DataError, match="line 2"):
        ChatTemplate("{{ messages }}\n{% for %}", variables={}, file="mine.jinja")


def test_the_date_is_the_given_one():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", variables={}, today=date(2025, 1, 31))
    assert template.render(chat("a")).text == "31 Jan 2025"


def test_a_template_lies_where_transformers_has_it(chat_tokenizer, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((chat_tokenizer / name).read_bytes())
    assert template_sources("tokenizer", tmp_path) == (PLAIN_CHATML, PLAIN_CHATML)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_sources("tokenizer", tmp_path) == ("d", "t")
    (tmp_path / "chat_template.jinja").write_text("f")
    assert template_sources("tokenizer", tmp_path) == ("f", "t")
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataError, match="no chat template"):
        template_sources("tokenizer", tmp_path)
