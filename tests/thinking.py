"""Models that think, for tests: the chat templates of Qwen 3 and DeepSeek-R1-Distill-Qwen, on tiny weights.

The templates are in words of our own and write what the models' own ones write, character by character. The tokenizers
are tiny, with the models' own control tokens and markers, of which some are no special tokens, as in the models.
"""

from unittest.mock import patch

import torch
from transformers import AddedToken, PreTrainedTokenizerFast

from sda_engine import SteeringEngine, testing
from sda_engine.testing import ScriptedEngine, tiny_model, tiny_tokenizer
from sda_engine.tokens import SafeTokenizer

# Thinks by itself; enable_thinking=False writes an empty thought. Thoughts stay only behind the last question
QWEN3 = (
    "{% if tools %}{{ '<|im_start|>system\n' ~ (messages[0].content ~ '\n\n' if messages[0].role == 'system') }}"
    "{{ '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' }}"
    "{{ 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' ~ (tool | tojson) }}{% endfor %}"
    "{{ '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' }}"
    "{{ '<tool_call></tool_call> XML tags:\n<tool_call>\n' }}"
    '{{ \'{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n\' }}'
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' ~ messages[0].content ~ '<|im_end|>\n' }}"
    "{% endif %}"
    "{% set asked = namespace(at=messages | length - 1) %}"
    "{% for m in messages %}{% if m.role == 'user' and not (m.content.startswith('<tool_response>') and "
    "m.content.endswith('</tool_response>')) %}{% set asked.at = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and loop.index0) %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}"
    "{% if m.reasoning_content is defined and m.reasoning_content is not none %}"
    "{% set said, thought = m.content, m.reasoning_content %}"
    "{% elif '</think>' in m.content %}"
    "{% set said = m.content.rpartition('</think>')[2].lstrip('\n') %}"
    "{% set thought = m.content.partition('</think>')[0].rstrip('\n').rpartition('<think>')[2].lstrip('\n') %}"
    "{% else %}{% set said, thought = m.content, '' %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > asked.at and (loop.last or thought) %}"
    "{{ '<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' ~ said.lstrip('\n') }}{% else %}{{ said }}{% endif %}"
    "{% for call in m.tool_calls or [] %}"
    "{% set f = call.function or call %}{{ '\n' if said or not loop.first }}"
    '{{ \'<tool_call>\n{"name": "\' ~ f.name ~ \'", "arguments": \' }}'
    "{{ f.arguments if f.arguments is string else f.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' }}"
    "{{ '\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' }}"
    "{{ '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false }}{% endif %}"
).replace("\n", "\\n")


def wide(text: str) -> str:
    """A text with DeepSeek's fullwidth bars in its control tokens."""
    return text.replace("<|", "<\uff5c").replace("|>", "\uff5c>")


# Opens every thought itself, and leaves thoughts out of earlier turns
R1_DISTILL = wide(
    "{% set ns = namespace(system='', seen=false, called=false, results=false, told=false) %}"
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = ns.system ~ ('\n\n' if ns.seen) ~ m.content %}{% set ns.seen = true %}{% endif %}{% endfor %}"
    "{{ bos_token ~ ns.system }}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.results = false %}{{ '<|User|>' ~ m.content }}"
    "{% elif m.role == 'assistant' and 'tool_calls' in m %}{% set ns.results = false %}"
    "{% for call in m.tool_calls %}"
    "{{ '\n' if ns.called else '<|Assistant|>' ~ (m.content or '') ~ '<|tool▁calls▁begin|>' }}"
    "{{ '<|tool▁call▁begin|>' + call.type + '<|tool▁sep|>' + call.function.name + '\n```json\n' }}"
    "{{ '' + call.function.arguments + '\n```<|tool▁call▁end|>' }}{% set ns.called = true %}{% endfor %}"
    "{{ '<|tool▁calls▁end|><|end▁of▁sentence|>' }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<|tool▁outputs▁end|>' ~ m.content if ns.results else '<|Assistant|>' ~ m.content.split('</think>')[-1] }}"
    "{{ '<|end▁of▁sentence|>' }}{% set ns.results = false %}"
    "{% elif m.role == 'tool' %}{% set ns.results = true %}"
    "{{ '\n' if ns.told else '<|tool▁outputs▁begin|>' }}"
    "{{ '<|tool▁output▁begin|>' ~ m.content ~ '<|tool▁output▁end|>' }}{% set ns.told = true %}"
    "{% endif %}{% endfor %}"
    "{{ '<|tool▁outputs▁end|>' if ns.results }}"
    "{{ '<|Assistant|><think>\n' if add_generation_prompt and not ns.results }}"
).replace("\n", "\\n")

_QWEN3_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
_R1_SPECIAL = [wide("<|begin▁of▁sentence|>"), wide("<|end▁of▁sentence|>")]
_R1_TOKENS = ["<think>", "</think>"] + [
    wide(f"<|{name}|>")
    for name in (
        *("User", "Assistant", "tool▁sep", "tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end"),
        *("tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end"),
    )
]
FAMILIES = ("Qwen 3", "DeepSeek-R1-Distill")
QUESTION = [{"role": "user", "content": "what is in the library?"}]


def thinking_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with a family's template and tokens; of Qwen 3 the tiny one has the ChatML tokens already."""
    tokenizer = tiny_tokenizer(chat_template=QWEN3 if family == "Qwen 3" else R1_DISTILL)
    special, others = ([], _QWEN3_TOKENS) if family == "Qwen 3" else (_R1_SPECIAL, _R1_TOKENS)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in others])
    if special:
        tokenizer.bos_token, tokenizer.eos_token = special
    return tokenizer


def thinking_engine(family: str) -> SteeringEngine:
    """An engine on tiny random weights. Asked QUESTION it begins a thought at once, where its template has not."""
    tokenizer = thinking_tokenizer(family)
    model = tiny_model(vocab_size=len(tokenizer))
    if family == "Qwen 3":  # the token that would come first changes places with the marker
        prompt = torch.tensor([SafeTokenizer(tokenizer).render(QUESTION)])
        with torch.inference_mode():
            first, marker = int(model(prompt).logits[0, -1].argmax()), tokenizer.get_vocab()["<think>"]
            head = model.get_output_embeddings().weight
            head[[first, marker]] = head[[marker, first]].clone()
    return SteeringEngine(model, tokenizer, name=family)


def scripted_thinker(family: str, script: object) -> ScriptedEngine:
    """An engine whose answers are known, markers as the family's own tokens."""
    with patch.object(testing, "tiny_tokenizer", lambda **_: thinking_tokenizer(family)):
        return ScriptedEngine(script)
