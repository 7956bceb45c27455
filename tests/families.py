"""The chat templates of well-known model families, for all tests that have to hold for each of them."""

from transformers import AddedToken, PreTrainedTokenizerFast

from sda_engine.testing import CHAT_TEMPLATE, tiny_tokenizer

# The formats of well-known model families, in words of our own: name -> (control tokens, template)
TEMPLATES = {
    "ChatML": (["<|im_start|>", "<|im_end|>"], CHAT_TEMPLATE),
    "ChatML with tools": (
        ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"],
        "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}"
        "\nCall one by <tool_call>\n...\n</tool_call><|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for call in m.tool_calls or [] %}<tool_call>\n"
        '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
        "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "Llama 2": (
        ["<s>", "</s>"],
        "{% for m in messages %}{% if m.role == 'system' %}<s>[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
        "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>"
        "{% else %}{% if loop.previtem is not defined or loop.previtem.role != 'system' %}<s>[INST] {% endif %}"
        "{{ m.content | trim }} [/INST]{% endif %}{% endfor %}",
    ),
    "Llama 3": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "Mistral": (
        ["<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"],
        "<s>{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}</s>"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}"
        "{% else %}{% if tools and loop.last %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}",
    ),
    "Gemma": (
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>{% set ns = namespace(first='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.first = m.content ~ '\n\n' %}{% else %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
        "{{ ns.first ~ m.content | trim }}<end_of_turn>\n{% set ns.first = '' %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "Phi": (
        ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"],
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "Gemma 2": (
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "Gemma 3": (
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "Mistral 1": (
        ["<s>", "</s>"],
        "<s>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}{{ m.content }}</s>"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    ),
    "Phi 3": (
        ["<|user|>", "<|assistant|>", "<|end|>"],
        "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}{{ '<|' + m.role + '|>' }}\n{{ m.content }}"
        "<|end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "Qwen 3": (
        ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content.split('</think>')[-1].lstrip() if m.role == 'assistant' else m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    ),
    "none": (["<|im_start|>", "<|im_end|>"], None),
}


def family_tokenizer(family: str, *, template: str | None = None) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a family's control tokens and its template, or another one."""
    markers, own = TEMPLATES[family]
    tokenizer = tiny_tokenizer(chat_template=template or own)
    known = tokenizer.get_vocab()
    for marker in markers:
        if marker not in known:  # markers of calls and thoughts are no special tokens in most models
            special = "tool_call" not in marker and "think" not in marker
            tokenizer.add_tokens([AddedToken(marker, special=special, normalized=False)], special_tokens=special)
    return tokenizer
