"""Constraints: what an answer may look like, by JSON schema, regular expression or grammar; llguidance enforces it.

A Constraint is a description. The ConstraintCompiler of an engine turns it into TokenConstraints, one for each
answer: the tokens that may come next, and those that must.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sda_engine.errors import ConstraintError
from sda_engine.forks import make_lock
from sda_engine.output.grammar_cost import is_doubtful
from sda_engine.output.grammar_trial import MAX_LEXER_STATES, TrialProcess
from sda_engine.output.schema_gate import DEFINITIONS, MAX_SCHEMA_BYTES, check_pattern, check_schema, check_text, walk
from sda_engine.tokens import SafeTokenizer

JSON_STYLE: Mapping[str, object] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_CACHED_GRAMMARS = 128
_CACHED_DOUBTFUL = 8  # each of which may be large
_REMEMBERED_TRIALS = 1_024
_MAX_LARK_RULES = 2_000
_WATCHED_TOKENS = 64  # so many tokens before the end at least, whatever the grammar, closing is looked after
_BYTES_PER_TOKEN = 4
_INSIDE_TEXT = ("q", "Z", "~")  # where all of these may come next, a text is open
_TO_CLOSE = ("}", "]", '"', ",", *"0123456789", *"ntf-:{[<", *"abcdefghijklmnopqrstuvwxyz", " ")
_SPEAKS_FOR_ITSELF = frozenset(
    {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf"}
)
_STRUCTURE = frozenset(b'"\\<>')
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Constraint:
    """What an answer may look like. Make one with `json_schema`, `regex` or `lark`.

    Attributes:
        kind: "json_schema", "regex" or "lark".
        source: JSON text of the schema, the expression, or the grammar.
    """

    kind: str
    source: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, object] | type[BaseModel]) -> Self:
        """JSON that fits a schema; a pydantic model gives its own.

        An object that names its properties has only those, unless the schema says `additionalProperties` itself:
        a model that may invent keys would. What fits is valid by the schema as it was given in either case.

        Raises:
            ConstraintError: the schema is no JSON, or larger than `sda_engine.output.schema_gate` lets pass.
        """
        if isinstance(schema, type):
            schema = schema.model_json_schema()
        closed = json.loads(check_schema(schema))
        _close_objects(closed)
        return cls("json_schema", json.dumps(closed, ensure_ascii=False))

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """A text that a regular expression matches as a whole: Rust's syntax, so no look-around, no back-references.

        Raises:
            ConstraintError: the pattern is no text, or too long.
        """
        return cls("regex", check_pattern(pattern))

    @classmethod
    def lark(cls, grammar: str) -> Self:
        """A text that a context-free grammar derives from its rule `start`, in llguidance's dialect of Lark.

        Raises:
            ConstraintError: the grammar is no text, or too long.
        """
        check_text(grammar, "A Lark grammar")
        if len(grammar.encode()) > MAX_SCHEMA_BYTES:
            raise ConstraintError(f"A Lark grammar must be a text of at most {MAX_SCHEMA_BYTES:,} bytes.")
        if (rules := grammar.count(":")) > _MAX_LARK_RULES:
            raise ConstraintError(f"The Lark grammar has {rules:,} rules, and the limit is {_MAX_LARK_RULES:,}.")
        return cls("lark", grammar)

    def grammar(self, name: str) -> dict[str, object]:
        """One named grammar of llguidance, to stand alone or to be referred to as @name."""
        if self.kind == "json_schema":
            return {"name": name, "json_schema": {**json.loads(self.source), "x-guidance": dict(JSON_STYLE)}}
        if self.kind == "lark":
            return {"name": name, "lark_grammar": self.source}
        (grammar,) = json.loads(LLMatcher.grammar_from_regex(self.source))["grammars"]
        return {**grammar, "name": name}


def join_grammars(*grammars: Mapping[str, object]) -> str:
    """The grammar that starts with the first of some named ones."""
    return json.dumps({"grammars": list(grammars)}, ensure_ascii=False)


class ConstraintCompiler:
    """Compiles grammars for one tokenizer, and keeps the latest. Safe to use from many threads.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: size of the model's logits, which may be more than the tokenizer's.
        eos_token_ids: every token that ends an answer.
    """

    def __init__(self, tokenizer: SafeTokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos_token_ids
        self._vocabulary: _Vocabulary | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._doubtful: OrderedDict[str, LLMatcher] = OrderedDict()
        self._trials: OrderedDict[bytes, str | None] = OrderedDict()  # what is wrong with a grammar, by its digest
        self._lock = make_lock()
        self._trial_lock = make_lock()  # one process at a time; grammars that need none do not wait for it

    def compile(self, grammar: str) -> "TokenConstraint":
        """A fresh constraint for one answer. The first call prepares the vocabulary, which takes half a second.

        A grammar that may cost much is tried out in a process of its own first, which takes a second.

        Raises:
            ConstraintError: the grammar cannot be enforced, or takes too much; the message names the part.
        """
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _Vocabulary(self._tokenizer, self._vocab_size, self._eos)
            vocabulary = self._vocabulary
            doubtful = grammar in self._doubtful
            matcher = (self._doubtful if doubtful else self._compiled).get(grammar)
        if matcher is None:
            matcher, doubtful = self._compile(grammar, vocabulary)
        with self._lock:
            kept, most = (self._doubtful, _CACHED_DOUBTFUL) if doubtful else (self._compiled, _CACHED_GRAMMARS)
            _remember(kept, grammar, matcher, most)
            return TokenConstraint(matcher.deep_copy(), vocabulary, watched_tokens=_watched(grammar))

    def _compile(self, grammar: str, vocabulary: "_Vocabulary") -> tuple[LLMatcher, bool]:
        """A compiled grammar, and whether it was a doubtful one."""
        doubtful = is_doubtful(grammar)
        if doubtful and (fault := self._try_out(grammar, vocabulary)):
            raise _cannot_be_enforced(fault)
        matcher = LLMatcher(
            vocabulary.tokenizer, grammar, log_level=0, limits=LLParserLimits(max_lexer_states=MAX_LEXER_STATES)
        )
        if matcher.is_error():
            raise _cannot_be_enforced(matcher.get_error())
        return matcher, doubtful

    def _try_out(self, grammar: str, vocabulary: "_Vocabulary") -> str | None:
        digest = hashlib.sha256(grammar.encode()).digest()
        with self._trial_lock:
            fault = self._trials[digest] if digest in self._trials else vocabulary.trial.run(grammar)
            _remember(self._trials, digest, fault, _REMEMBERED_TRIALS)
            return fault


class TokenConstraint:
    """Which tokens may come next in one answer. The worker thread alone touches it."""

    def __init__(self, matcher: LLMatcher, vocabulary: "_Vocabulary", *, watched_tokens: int) -> None:
        self._matcher, self._vocabulary, self._watched = matcher, vocabulary, watched_tokens
        self._allowed: NDArray[np.bool_] | None = None
        self._needed: int | None = None  # how many tokens close the answer as it is, where that is known
        self._needed_next: int | None = None  # the same after the token that was chosen
        self._hopeless = False

    def copy(self) -> "TokenConstraint":
        """The same for another answer that begins like this one."""
        return TokenConstraint(self._matcher.deep_copy(), self._vocabulary, watched_tokens=self._watched)

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self._matcher.is_stopped()

    def apply_mask(self, logits: Tensor) -> Tensor:
        """Logits with -inf for every token that may not come next: (rows, vocab) to (rows, vocab)."""
        allowed = torch.from_numpy(self._mask()).to(logits.device)
        return logits.masked_fill(~allowed, float("-inf"))

    def forced(self) -> Sequence[int]:
        """Tokens that must come next, whatever the model thinks; empty where there is a choice."""
        return _forced(self._matcher)

    def choose(self, token_id: int, remaining: int) -> int:
        """The token itself, or one that closes the answer where this one would leave no room to close it.

        Args:
            token_id: an allowed token.
            remaining: how many tokens may follow it.
        """
        if self._hopeless or remaining > self._watched:
            return token_id
        needed = self._needed_after(token_id, remaining)
        if needed is not None and needed <= remaining:
            self._needed_next = needed
            return token_id
        path = self._vocabulary.closing(self._matcher, remaining + 1)
        if path is None:
            self._hopeless = True
            return token_id
        self._needed_next = max(len(path) - 1, 0)
        return path[0] if path else self._vocabulary.eos_token_id

    def advance(self, token_id: int) -> None:
        """Take note of a token that was appended.

        Raises:
            ConstraintError: the token was not allowed, or the grammar grew past the grammar engine's limits.
        """
        self._allowed, self._needed, self._needed_next = None, self._needed_next, None
        if not self._matcher.consume_token(token_id):
            raise ConstraintError(f"The constraint could not be followed: {_first_lines(self._matcher.get_error())}.")

    def _mask(self) -> NDArray[np.bool_]:
        if self._allowed is None:
            self._allowed = self._vocabulary.allowed(self._matcher)
            if self._matcher.is_error():
                raise ConstraintError(f"The constraint is too complex: {_first_lines(self._matcher.get_error())}.")
        return self._allowed

    def _needed_after(self, token_id: int, budget: int) -> int | None:
        """How many tokens close the answer after this one; None where they are more than the budget."""
        vocabulary = self._vocabulary
        after = self._matcher.deep_copy()
        after.consume_token(token_id)
        plain = vocabulary.plain[token_id] and vocabulary.is_open_text(self._mask())
        if plain and self._needed is not None and vocabulary.is_open_text(vocabulary.allowed(after)):
            return self._needed  # the text goes on, and what closes it is the same
        path = vocabulary.closing(after, budget)
        return None if path is None else len(path)


class _Vocabulary:
    """llguidance's view of a tokenizer, and what closing an answer needs to know of it."""

    def __init__(self, tokenizer: SafeTokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        backend = tokenizer.copy()
        if not isinstance(backend, PreTrainedTokenizerFast):
            raise ConstraintError(
                f"Constraints and tools need a fast tokenizer, and this model's is a {type(backend).__name__}. Convert "
                f"it to tokenizer.json first."
            )
        if not eos_token_ids:
            raise ConstraintError("Constraints and tools need an end-of-sequence token, and this model has none.")
        self.tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(
            backend, n_vocab=vocab_size, eos_token=sorted(eos_token_ids)
        )
        self._size = vocab_size
        self._bytes = 4 * ((vocab_size + 31) // 32)
        self.eos_token_id = min(eos_token_ids)
        texts = [self.tokenizer.decode_bytes([token_id]) for token_id in range(vocab_size)]
        special = [self.tokenizer.is_special_token(token_id) for token_id in range(vocab_size)]
        single = {text: token_id for token_id, text in reversed(list(enumerate(texts))) if not special[token_id]}
        self.plain = np.array([not s and _is_plain(text) for text, s in zip(texts, special, strict=True)])
        self.trial = TrialProcess(texts, [token_id for token_id, s in enumerate(special) if s], sorted(eos_token_ids))
        self._markers = np.array([s and token_id not in eos_token_ids for token_id, s in enumerate(special)])
        markers = tokenizer.answer_format
        self._leave_thought = self._tokens_of(markers.thought_end, markers.special_tokens) if markers.thinks else []
        self._inside = [single[sign.encode()] for sign in _INSIDE_TEXT if sign.encode() in single]
        self._to_close = [single[sign.encode()] for sign in _TO_CLOSE if sign.encode() in single]
        self._quote = single.get(b'"')

    def allowed(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """(vocab,) whether each token may come next."""
        words = np.zeros(self._bytes // 4, dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, self._bytes)
        return np.unpackbits(words.view(np.uint8), bitorder="little", count=self._size).view(np.bool_)

    def inside_text(self, allowed: NDArray[np.bool_]) -> bool:
        """Whether nearly any character may come next."""
        return bool(allowed[self._inside].all())

    def is_open_text(self, allowed: NDArray[np.bool_]) -> bool:
        """Whether nearly any character may come next, and a quote that ends a JSON text as well."""
        return self.inside_text(allowed) and self._quote is not None and bool(allowed[self._quote])

    def closing(self, matcher: LLMatcher, budget: int) -> list[int] | None:
        """A short way to a whole answer, or None if none was found within the budget. The matcher is left alone.

        It takes the sign that closes most at each place. That is not always the shortest way: where it finds none
        there may be one all the same.
        """
        path = self._close(matcher.deep_copy(), [], budget)
        if path is None and self._leave_thought:
            path = self._close(matcher.deep_copy(), self._leave_thought, budget)
        return path

    def _close(self, matcher: LLMatcher, first: Sequence[int], budget: int) -> list[int] | None:
        """A way that begins with given tokens; the matcher is used up."""
        path: list[int] = []
        step = list(first)
        while True:
            if len(path) + len(step) > budget or (step and not matcher.consume_tokens(step)):
                return None
            path += step
            if matcher.is_accepting():
                return path
            step = _forced(matcher) or self._closing_step(matcher)
            if not step:
                return None

    def _tokens_of(self, text: str, special_tokens: Mapping[str, int]) -> list[int]:
        return [special_tokens[text]] if text in special_tokens else list(self.tokenizer.tokenize_str(text))

    def _closing_step(self, matcher: LLMatcher) -> list[int]:
        allowed = self.allowed(matcher)
        if (markers := allowed & self._markers).any():
            return [int(markers.argmax())]
        order = self._to_close
        if self._quote is not None and self.inside_text(allowed):
            order = [self._quote, *self._inside]
        found = next((token_id for token_id in order if allowed[token_id]), None)
        if found is None and allowed.any():
            found = int(allowed.argmax())
        return [] if found is None else [found]


def _forced(matcher: LLMatcher) -> list[int]:
    tokens = matcher.compute_ff_tokens()
    # a marker of the tokenizer's own may be spelt in a text, where its token is none of the grammar's
    return list(tokens[: matcher.validate_tokens(tokens)]) if tokens else []


def _close_objects(schema: dict[str, object]) -> None:
    """Give objects that name their properties `additionalProperties: false`, in place.

    Objects that say something themselves stay as they are, and so do those that are only part of a whole, since
    closed parts would exclude each other.
    """
    nodes = [
        (node.value, node.within) for node in walk(schema) if node.kind == "schema" and isinstance(node.value, dict)
    ]
    parts = {id(part) for value, _ in nodes for part in _parts_of_a_whole(value)}
    combines_references = bool(parts) or any("$ref" in value and len(value) > 1 for value, _ in nodes)
    for value, within in nodes:
        is_alone = id(value) not in parts and not (combines_references and within in DEFINITIONS)
        if isinstance(value.get("properties"), dict) and not _SPEAKS_FOR_ITSELF & set(value) and is_alone:
            value["additionalProperties"] = False


def _parts_of_a_whole(schema: Mapping[str, object]) -> list[object]:
    """Schemas that hold together with others: of an allOf, an if, and of alternatives beside properties."""
    parts = [schema.get(keyword) for keyword in ("if", "then", "else", "not")]
    for keyword in ("allOf", "anyOf", "oneOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list) and (keyword == "allOf" or "properties" in schema):
            parts += branches
    return [part for part in parts if part is not None]


def _watched(grammar: str) -> int:
    """How many tokens before the end closing is looked after: nothing in a grammar takes much longer than its text."""
    return _WATCHED_TOKENS + len(grammar) // _BYTES_PER_TOKEN


def _is_plain(text: bytes) -> bool:
    """Whether a token is whole characters, none of which means something in JSON or begins a marker."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return not _STRUCTURE & set(text)


def _remember(kept: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def _cannot_be_enforced(fault: str) -> ConstraintError:
    return ConstraintError(
        f"The constraint cannot be enforced: {_first_lines(fault)}. Leave that part out, or say it in the prompt and "
        f"check the answer."
    )


def _first_lines(error: str) -> str:
    return " ".join(error.split())[:300].rstrip(".")
