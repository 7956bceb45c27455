"""Random schemas and values, mostly well-formed and full of traps."""

KEYWORDS = [
    "type", "properties", "items", "anyOf", "allOf", "oneOf", "enum", "const", "$ref", "$defs", "required", "pattern",
    "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "multipleOf", "format",
    "additionalProperties", "patternProperties", "prefixItems", "not", "minProperties", "x-guidance", "$id", "$schema",
]  # fmt: skip
ATOMS = [
    None, True, False, 0, -1, 1, 3, 2.5, 1e-9, 1e300, -0.0, float("nan"), float("inf"), 10_000, 10**20, 2**63, "", "a",
    "object", "array", "string", "integer", "number", "boolean", "null", "#", "#/$defs/a", "#/properties/a", "//x y",
    "http://a.b/c", "(", "[a-", "(?=a)", "a{9999}", "((a{99}){99}){99}", "\\p{L}+", "^a$", "date-time", "uuid", "\0",
    "\u2028\U0001f600", "\ud800", b"x", 1j, (), {"a"},
]  # fmt: skip


def random_value(rng, depth):
    roll = rng.random()
    if depth > 4 or roll < 0.3:
        return rng.choice(ATOMS)
    if roll < 0.45:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    keys = ["a", "b", "type", 7] if roll > 0.97 else KEYWORDS if roll > 0.6 else ["a", "b", *KEYWORDS[:3]]
    return {rng.choice(keys): random_value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def random_schema(rng, depth=0):
    """Mostly well-formed, so that the grammar engine gets something to chew."""
    if depth > 3 or rng.random() < 0.1:
        return random_value(rng, depth)
    parts = {
        "type": lambda: rng.choice(["object", "array", "string", "integer", "number", ["string", "null"]]),
        "properties": lambda: {key: random_schema(rng, depth + 1) for key in rng.sample(["a", "b", "$defs"], 2)},
        "required": lambda: rng.sample(["a", "b", "c"], rng.randint(0, 2)),
        "items": lambda: random_schema(rng, depth + 1),
        "anyOf": lambda: [random_schema(rng, depth + 1) for _ in range(rng.randint(1, 3))],
        "allOf": lambda: [random_schema(rng, depth + 1) for _ in range(rng.randint(1, 3))],
        "$defs": lambda: {"a": random_schema(rng, depth + 1)},
        "$ref": lambda: rng.choice(["#", "#/$defs/a", "#/properties/a", "#/$defs/b"]),
        "enum": lambda: rng.choices(ATOMS[:20], k=3),
        "multipleOf": lambda: rng.choice([3, 0.1, 1e-9, 7_777, 9_999]),
        "maxItems": lambda: rng.choice([0, 3, 10_000]),
        "minLength": lambda: rng.choice([0, 5, 10_000]),
        "pattern": lambda: rng.choice([atom for atom in ATOMS if isinstance(atom, str)]),
    }
    return {key: parts[key]() for key in rng.sample(list(parts), rng.randint(1, 4))}
