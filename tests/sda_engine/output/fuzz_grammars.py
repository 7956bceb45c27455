"""Compiles random schemas one after the other, and says before each which one it is: python -m, FIRST and COUNT.

It is a process of its own, so that a crash is found and told from the others. Doubtful schemas are only counted: a
trial is a process each, and tests/sda_engine/output/test_hostile_schemas.py has trials.
"""

import json
import random
import sys
import time

from sda_engine import Constraint, Output
from sda_engine.errors import ConstraintError
from sda_engine.output.constraints import ConstraintCompiler
from sda_engine.output.grammar_cost import is_doubtful
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens.tokenizer import SafeTokenizer
from tests.sda_engine.output.random_schemas import random_schema, random_value


def schema_number(number):
    rng = random.Random(number)  # noqa: S311
    return random_schema(rng) if number % 3 else random_value(rng, 0)


def main(first, count):
    tokenizer = SafeTokenizer(tiny_tokenizer())
    compiler = ConstraintCompiler(tokenizer, 320, frozenset({2}))
    results = {"compiled": 0, "refused": 0, "doubtful": 0, "slow": []}
    for number in range(first, first + count):
        print(number, flush=True)  # noqa: T201
        start = time.process_time()
        try:
            grammar = Output(constraint=Constraint.json_schema(schema_number(number))).grammar(tokenizer.answer_format)
            if is_doubtful(grammar):
                results["doubtful"] += 1
                continue
            compiler.compile(grammar)._mask()
            results["compiled"] += 1
        except ConstraintError:
            results["refused"] += 1
        if time.process_time() - start > 2:
            results["slow"].append(number)
    print(json.dumps(results), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
