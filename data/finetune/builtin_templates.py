"""Chat templates for tokenizers that bring none; answers are marked, so their loss mask is exact."""

# The form that OpenAI named ChatML; its markers should be special tokens of the tokenizer.
_CHATML = """\
{%- if tools %}{{- '<|im_start|>system\\nTools, one JSON schema each:\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{% endfor %}{{- '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n' + (call.function or call) | tojson + '\\n</tool_call>' }}{% endfor %}
        {{- '<|im_end|>' }}{% endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

# Plain words: for a tokenizer without markers.
_PLAIN = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '### Assistant:\\n' }}{% generation %}{{- message.content + eos_token }}{% endgeneration %}{{- '\\n' }}
    {%- elif message.role in ['system', 'user'] %}
        {{- '### ' + message.role.capitalize() + ':\\n' + message.content + '\\n\\n' }}
    {%- else %}
        {{- raise_exception('the built-in template plain has no role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Assistant:\\n' }}{% endif %}"""

# The texts end to end: a prompt and its completion, with nothing between.
_COMPLETION = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}{% generation %}{{- message.content + eos_token }}{% endgeneration %}
    {%- else %}{{- message.content }}
    {%- endif %}
{%- endfor %}"""

BUILT_IN = {"chatml": _CHATML, "plain": _PLAIN, "completion": _COMPLETION}
