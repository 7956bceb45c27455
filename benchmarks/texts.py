"""What speed.py and its child processes do before they start: silence the libraries, and cut texts by tokens."""

import logging

import transformers
from cases import Cutter
from transformers import AutoTokenizer


def quiet() -> None:
    """No progress bars and no advice from transformers between the lines of a table."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("llama_index").setLevel(logging.ERROR)


def text_cutter(folder: str) -> Cutter:
    """A function that gives the beginning of a text, so many tokens of the model long."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def cut(text: str, tokens: int) -> str:
        return str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)[:tokens]))

    return cut
