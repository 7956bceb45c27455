"""Constraints: what an answer may look like, by JSON schema, regular expression or grammar; llguidance enforces it.

A Constraint is a description. The ConstraintCompiler of an engine turns it into TokenConstraints, one for each
answer: the tokens that may come next, and those that must.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self, TypeVar

from llguidance import LLMatcher, LLParserLimits
from pydantic import BaseModel

from sda_engine.errors import ConstraintError
from sda_engine.forks import make_lock
from sda_engine.output.closed_objects import close_objects
from sda_engine.output.endings import find_endings
from sda_engine.output.fit import check_meaning, misfit
from sda_engine.output.grammar_cost import is_doubtful
from sda_engine.output.grammar_trial import MAX_LEXER_STATES
from sda_engine.output.loosening import LoosenedSchema, loosen
from sda_engine.output.schema_gate import MAX_SCHEMA_BYTES, check_pattern, check_schema, check_text
from sda_engine.output.token_constraint import TokenConstraint, first_lines
from sda_engine.output.vocabulary import Vocabulary
from sda_engine.tokens import SafeTokenizer
from sda_engine.user_warnings import warn_user

JSON_STYLE: Mapping[str, object] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LOOSENED_SCHEMAS = 64  # kept, of 64 KiB at most
_CACHED_GRAMMARS = 128
_CACHED_DOUBTFUL = 8  # each of which may be large
_REMEMBERED_TRIALS = 1_024
_REMEMBERED_WARNINGS = 1_024
_SHOWN_PARTS = 8
_MAX_LARK_RULES = 2_000
_WATCHED_TOKENS = 64  # so many tokens before the end at least, whatever the grammar, closing is looked after
_BYTES_PER_TOKEN = 4
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class LoosenedSchemaWarning(UserWarning):
    """A grammar cannot enforce all of a JSON schema; what it leaves out is checked in the answer."""


@dataclass(frozen=True)
class Constraint:
    """What an answer may look like. Make one with `json_schema`, `regex` or `lark`.

    Attributes:
        kind: "json_schema", "regex" or "lark".
        source: JSON text of the schema, with its objects closed, the expression, or the grammar.
        given: JSON text of the schema as it was given, which answers are held against; "" for the other kinds.
    """

    kind: str
    source: str
    given: str = field(default="", repr=False)

    @classmethod
    def json_schema(cls, schema: Mapping[str, object] | type[BaseModel]) -> Self:
        """JSON that fits a schema; a pydantic model gives its own.

        An object that names its properties has only those, unless the schema says `additionalProperties` itself:
        a model that may invent keys would. What fits is valid by the schema as it was given in either case.

        Parts that a grammar cannot enforce (`left_out` tells them) are left to a check of the answer.

        Raises:
            ConstraintError: the schema is no JSON, or larger than `sda_engine.output.schema_gate` lets pass.
        """
        if isinstance(schema, type):
            schema = schema.model_json_schema()
        given = check_schema(schema, as_it_is=False)
        closed = json.loads(given)
        close_objects(closed)
        return cls("json_schema", json.dumps(closed, ensure_ascii=False), given)

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

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parts of a JSON schema that its grammar does not enforce, each with its place."""
        return _loosen(self.source).left_out if self.kind == "json_schema" else ()

    def misfit(self, value: object) -> str | None:
        """What of an answer does not fit a JSON schema of which parts were left out; None where all does.

        Args:
            value: what the answer's JSON says.
        """
        return misfit(json.loads(self.given), value) if self.left_out else None

    def grammar(self, name: str, *, strict: bool = False) -> dict[str, object]:
        """One named grammar of llguidance, to stand alone or to be referred to as @name.

        Args:
            strict: whether a JSON schema is to be enforced as it is, or refused.

        Raises:
            ConstraintError: it is `strict`, and the schema passes a limit of what can be enforced.
        """
        if self.kind == "json_schema" and strict:
            schema = json.loads(check_schema(json.loads(self.source)))
            return {"name": name, "json_schema": {**schema, "x-guidance": dict(JSON_STYLE)}}
        if self.kind == "json_schema":
            style = {**JSON_STYLE, "coerce_one_of": True}  # whether two of them fit is checked
            return {"name": name, "json_schema": {**_loosen(self.source).schema, "x-guidance": style}}
        if self.kind == "lark":
            return {"name": name, "lark_grammar": self.source}
        (grammar,) = json.loads(LLMatcher.grammar_from_regex(self.source))["grammars"]
        return {**grammar, "name": name}


@lru_cache(maxsize=_LOOSENED_SCHEMAS)
def _loosen(source: str) -> LoosenedSchema:
    schema = json.loads(source)
    loosened = loosen(schema)
    if loosened.left_out:
        check_meaning(schema)
    return loosened


def join_grammars(*grammars: Mapping[str, object]) -> str:
    """The grammar that starts with the first of some named ones."""
    return json.dumps({"grammars": list(grammars)}, ensure_ascii=False)


class LooseningNotes:
    """Warns of schemas that no grammar enforces in full, once about each. Safe to use from many threads."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._lock = make_lock()

    def warn_of(self, left_out: tuple[str, ...]) -> None:
        """Warn, once about each, of schemas that no grammar enforces in full.

        Args:
            left_out: the parts that are left out, each with its place; none for no warning.
        """
        with self._lock:
            is_new = left_out not in self._told
            _remember(self._told, left_out, None, _REMEMBERED_WARNINGS)
        if is_new and left_out:
            more = f" and {len(left_out) - _SHOWN_PARTS} more" if len(left_out) > _SHOWN_PARTS else ""
            parts = ", ".join(left_out[:_SHOWN_PARTS]) + more
            warn_user(
                f"No grammar can enforce all of the JSON schema. It leaves out {parts}. What can be checked of that is "
                f"checked in the answer. To have such schemas refused, set strict=True.",
                LoosenedSchemaWarning,
            )


@dataclass(frozen=True)
class _Compiled:
    """A grammar that is ready, and token sequences that may close its texts."""

    matcher: LLMatcher
    endings: tuple[tuple[int, ...], ...]


class ConstraintCompiler:
    """Compiles grammars for one tokenizer, and keeps the latest. Safe to use from many threads.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: size of the model's logits, which may be more than the tokenizer's.
        eos_token_ids: every token that ends an answer.
    """

    def __init__(self, tokenizer: SafeTokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos_token_ids
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[str, _Compiled] = OrderedDict()
        self._doubtful: OrderedDict[str, _Compiled] = OrderedDict()
        self._trials: OrderedDict[bytes, str | None] = OrderedDict()  # what is wrong with a grammar, by its digest
        self._notes = LooseningNotes()
        self._lock = make_lock()
        self._trial_lock = make_lock()  # one process at a time; grammars that need none do not wait for it

    def compile(self, grammar: str) -> TokenConstraint:
        """A fresh constraint for one answer. The first call prepares the vocabulary, which takes half a second.

        A grammar that may cost much is tried out in a process of its own first, which takes a second.

        Raises:
            ConstraintError: the grammar cannot be enforced, or takes too much; the message names the part.
        """
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._tokenizer, self._vocab_size, self._eos)
            vocabulary = self._vocabulary
            doubtful = grammar in self._doubtful
            compiled = (self._doubtful if doubtful else self._compiled).get(grammar)
        if compiled is None:
            compiled, doubtful = self._compile(grammar, vocabulary)
        with self._lock:
            kept, most = (self._doubtful, _CACHED_DOUBTFUL) if doubtful else (self._compiled, _CACHED_GRAMMARS)
            _remember(kept, grammar, compiled, most)
            return TokenConstraint(
                compiled.matcher.deep_copy(),
                vocabulary,
                watched_tokens=_watched(grammar),
                endings=compiled.endings,
                grammar=grammar,
            )

    def warn_of(self, left_out: tuple[str, ...]) -> None:
        """Warn, once about each, of schemas that no grammar enforces in full, see LooseningNotes."""
        self._notes.warn_of(left_out)

    def _compile(self, grammar: str, vocabulary: Vocabulary) -> tuple[_Compiled, bool]:
        """A compiled grammar, and whether it was a doubtful one."""
        doubtful = is_doubtful(grammar)
        if doubtful and (fault := self._try_out(grammar, vocabulary)):
            raise _cannot_be_enforced(fault)
        matcher = LLMatcher(
            vocabulary.tokenizer, grammar, log_level=0, limits=LLParserLimits(max_lexer_states=MAX_LEXER_STATES)
        )
        if matcher.is_error():
            raise _cannot_be_enforced(matcher.get_error())
        endings = tuple(tuple(vocabulary.tokens_of(ending)) for ending in find_endings(grammar))
        return _Compiled(matcher, endings), doubtful

    def _try_out(self, grammar: str, vocabulary: Vocabulary) -> str | None:
        digest = hashlib.sha256(grammar.encode()).digest()
        with self._trial_lock:
            fault = self._trials[digest] if digest in self._trials else vocabulary.trial.run(grammar)
            _remember(self._trials, digest, fault, _REMEMBERED_TRIALS)
            return fault


def _watched(grammar: str) -> int:
    """How many tokens before the end closing is looked after: nothing in a grammar takes much longer than its text."""
    return _WATCHED_TOKENS + len(grammar) // _BYTES_PER_TOKEN


def _remember(kept: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def _cannot_be_enforced(fault: str) -> ConstraintError:
    return ConstraintError(
        f"The constraint cannot be enforced: {first_lines(fault)}. Leave that part out, or say it in the prompt and "
        f"check the answer."
    )
