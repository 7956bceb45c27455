"""Descriptions of answers that pass the static gate and aim at time, memory or a crash."""


def object_of(count, schema=None, *, required=False, **more):
    """So many properties of one schema."""
    properties = {f"p{number}": schema or {"type": "integer"} for number in range(count)}
    return {
        "type": "object",
        "properties": properties,
        **({"required": list(properties)} if required else {}),
        **more,
    }


def text(pattern, **more):
    return {"type": "string", "pattern": pattern, **more}


def nest(levels, wrap):
    """A schema of an integer, wrapped so many times."""
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = wrap(schema)
    return schema


def ref_chain(length):
    """Definitions that each refer to the next, spread over groups so that no place has too many of them."""
    places = [(f"g{number // 60}", f"d{number % 60}") for number in range(length)]
    paths = [f"#/properties/{group}/$defs/{name}" for group, name in places]
    groups = {}
    for (group, name), target in zip(places, [*paths[1:], None], strict=True):
        definition = {"$ref": target} if target else {"type": "integer"}
        groups.setdefault(group, {"$defs": {}})["$defs"][name] = definition
    return {"type": "object", "properties": {"x": {"$ref": paths[0]}, **groups}, "required": ["x"]}


def doubling(levels, key="anyOf", width=2):
    """Definitions that each refer to the next several times: width ** levels of them, written out."""
    defs = {f"d{level}": {key: [{"$ref": f"#/$defs/d{level + 1}"}] * width} for level in range(levels)}
    defs[f"d{levels}"] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    return {"$ref": "#/$defs/d0", "$defs": defs}


def doubling_properties(levels, width=2):
    """Objects of objects: each definition holds the next several times, in an allOf, so that it is written out."""
    defs = {}
    for level in range(levels):
        member = {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}, {"minProperties": 0}]}
        defs[f"d{level}"] = {"type": "object", "properties": dict.fromkeys("abcdefgh"[:width], member)}
    defs[f"d{levels}"] = {"type": "integer"}
    return {"$ref": "#/$defs/d0", "$defs": defs}


def doubling_annotated(levels, refer):
    """Objects of two properties, each of which refers to the next object in the way of `refer`, path -> schema."""
    defs = {
        f"d{level}": {
            "type": "object",
            "properties": dict.fromkeys("ab", refer(f"#/$defs/d{level + 1}")),
            "required": ["a"],
        }
        for level in range(levels)
    }
    defs[f"d{levels}"] = {"type": "object"} if "type" in refer("") else {"type": "integer"}
    return {"$ref": "#/$defs/d0", "$defs": defs}


def any_product(groups, width, leaf):
    """Groups of alternatives that have to hold together: width ** groups combinations."""
    return {"allOf": [{"anyOf": [leaf(group, place) for place in range(width)]} for group in range(groups)]}


JSON = {
    "pattern (a{1,1000}){1,1000}": text("^(a{1,1000}){1,1000}$"),
    "pattern (a{1,999}b?){1,999}": text("^(a{1,999}b?){1,999}$"),
    "pattern ((a{99}){99}){99}": text("^((a{99}){99}){99}$"),
    "pattern [ab]*a[ab]{20}": text("^[ab]*a[ab]{20}$"),
    "pattern [ab]*a[ab]{200}": text("^[ab]*a[ab]{200}$"),
    "pattern .*a.{500}": text("^.*a.{500}$"),
    "pattern unanchored a.{500}b": text("a.{500}b"),
    "pattern (.*a){30}": text("^(.*a.*b){30}$"),
    "pattern nested stars": text("^((((((a*)*)*b*)*)*c*)*)*$"),
    "pattern (a*)^400": text("^" + "(" * 400 + "a" + ")*" * 400 + "$"),
    "pattern 1000 parens": text("^" + "(" * 340 + "a" + ")?" * 340 + "$"),
    "pattern \\p{L}{1,1000}": text("^\\p{L}{1,1000}$"),
    "pattern (\\p{L}|\\p{N}|\\p{P}){1,5000}": text("^(\\p{L}|\\p{N}|\\p{P}){1,5000}$"),
    "pattern many classes": text("^" + "\\p{Han}\\p{L}[^\\p{Lu}]\\W" * 40 + "$"),
    "pattern (?i) unicode": text("^(?i:" + "\u00df\u0130k" * 100 + ")*$"),
    "pattern a{60000}": text("^a{60000}$"),
    "pattern a{0,2000000000}": text("^a{0,2000000000}$"),
    "pattern (.{1,300}){1,300}": text("^(.{1,300}){1,300}$"),
    "pattern with maxLength 10000": text("^(ab|a|b.){3,}$", minLength=9_000, maxLength=10_000),
    "pattern with maxLength 9973": text("^([a-z]{1,97} ){1,89}$", maxLength=9_973),
    "pattern alternatives 300": text("^(" + "|".join(f"a{k}b" for k in range(200)) + ")*$"),
    "maxLength 10000": {"type": "string", "minLength": 9_999, "maxLength": 10_000},
    "allOf of 40 patterns": {"allOf": [text(f".*{c}.*") for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"]},
    "allOf of 20 counted patterns": {
        "allOf": [text(f"^(.{{{k}}})*$") for k in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)]
    },
    "allOf of 10 a.{30}": {"allOf": [text(f"^.*{c}.{{30}}$") for c in "abcdefghij"]},
    "anyOf of 400 patterns": {"anyOf": [text(f"^.*{k}.{{20}}$") for k in range(400)]},
    "patternProperties 40 overlapping": {
        "type": "object",
        "patternProperties": {
            f"^.*{c}.{{20}}$": {"type": "integer"} for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"
        },
    },
    "patternProperties a{1,1000}{1,1000}": {
        "type": "object",
        "patternProperties": {"^(a{1,1000}){1,1000}$": {"type": "integer"}, "^(a{1,999}){1,999}$": {"type": "string"}},
    },
    "patternProperties + 900 names": {
        **object_of(900, additionalProperties=True),
        "patternProperties": {"^p[0-9]*": {"type": "integer"}, "p.{50}": {"type": "integer"}},
    },
    "1900 optional properties": object_of(1_900),
    "1900 optional properties, open": object_of(1_900, additionalProperties={"type": "string"}),
    "1900 required properties": object_of(1_900, required=True),
    "1900 optional of text": object_of(1_900, {"type": "string", "maxLength": 10_000}),
    "nested optional 40x40": object_of(40, object_of(40)),
    "ref chain 250": ref_chain(250),
    "doubling anyOf 25": doubling(25),
    "doubling oneOf 25": doubling(25, "oneOf"),
    "doubling allOf 25": doubling(25, "allOf"),
    "doubling allOf of 4, 60": doubling(60, "allOf", 4),
    "doubling properties 20": doubling_properties(20),
    "doubling properties 8 wide": doubling_properties(12, 8),
    "allOf of anyOf 10^8": any_product(8, 10, lambda g, w: {"properties": {f"g{g}w{w}": {"type": "integer"}}}),
    "allOf of anyOf 20^4": any_product(
        4, 20, lambda g, w: {"type": "object", "properties": {f"g{g}w{w}": {"type": "integer"}}}
    ),
    "allOf of anyOf patterns": any_product(4, 10, lambda g, w: text(f"^.*{g}{w}.*$")),
    "anyOf chain depth 31": nest(15, lambda x: {"anyOf": [x, {"type": "null"}]}),
    "oneOf 1900 objects": {
        "oneOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}] * 480
    },
    "anyOf 480 same objects": {
        "anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}] * 480
    },
    "minItems 10000": {"type": "array", "items": {"type": "integer"}, "minItems": 10_000, "maxItems": 10_000},
    "maxItems 10000 nested 3": nest(3, lambda x: {"type": "array", "items": x, "minItems": 9_999, "maxItems": 10_000}),
    "maxItems 10000 x 300": object_of(
        300, {"type": "array", "items": {"type": "integer"}, "minItems": 9_000, "maxItems": 10_000}
    ),
    "maxItems 300..10000 distinct": {
        "type": "object",
        "properties": {
            f"p{k}": {
                "type": "array",
                "items": {"type": "object", "properties": {f"q{k}": {"type": "integer"}}},
                "minItems": 9_000 - k,
                "maxItems": 9_999 - k,
            }
            for k in range(300)
        },
    },
    "maxLength 10000 x 900 distinct": {
        "type": "object",
        "properties": {
            f"p{k}": {"type": "string", "minLength": 8_000 - k, "maxLength": 10_000 - k} for k in range(900)
        },
    },
    "multipleOf 9973": {"type": "integer", "multipleOf": 9_973},
    "multipleOf 9973 bounded": {
        "type": "integer",
        "multipleOf": 9_973,
        "minimum": -(2**52) + 12_345,
        "maximum": 2**52 - 6_789,
    },
    "multipleOf 0.9973": {"type": "number", "multipleOf": 0.9973},
    "multipleOf 1e-9": {"type": "number", "multipleOf": 1e-9},
    "multipleOf 1e-300": {"type": "number", "multipleOf": 1e-300},
    "multipleOf 7777 x 200": {
        "anyOf": [{"type": "integer", "multipleOf": 7_777, "minimum": k * 1_000_003} for k in range(200)]
    },
    "number bounds 900": {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": k + 0.123456789012345, "maximum": 10**15 - k - 0.98765}
            for k in range(900)
        ]
    },
    "integer bounds 2^62": {
        "anyOf": [{"type": "integer", "minimum": -(2**62) + k, "maximum": 2**62 - k} for k in range(900)]
    },
    "number min 1e-300": {"type": "number", "minimum": 1e-300, "maximum": 1e300},
    "enum 1000 texts of 50": {"enum": [f"{k:050}" for k in range(1_000)]},
    "enum of 30 x 1000 numbers": {
        "type": "object",
        "properties": {f"p{k}": {"enum": list(range(k, k + 400))} for k in range(30)},
    },
    "const of 60 KB": {"const": "x" * 60_000},
    "title of property 60 KB": {
        "type": "object",
        "properties": {"n" * 60_000: {"type": "integer"}},
        "required": ["n" * 60_000],
    },
    "required 8000 names": {"type": "object", "required": [f"r{k}" for k in range(6_000)]},
    "required 8000 open": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "required": [f"r{k}" for k in range(6_000)],
    },
    "recursion tree": {
        "$ref": "#/$defs/t",
        "$defs": {"t": {"type": "object", "properties": {c: {"$ref": "#/$defs/t"} for c in "abcdefgh"}}},
    },
    "recursion self allOf": {"allOf": [{"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}]},
    "recursion self anyOf": {"anyOf": [{"$ref": "#"}, {"type": "integer"}]},
    "recursion mutual allOf": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {"allOf": [{"$ref": "#/$defs/b"}, {"properties": {"x": {"$ref": "#/$defs/a"}}}]},
            "b": {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"y": {"$ref": "#/$defs/b"}}}]},
        },
    },
    "recursion intersect trees": {
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {
            "a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"$ref": "#/$defs/b"}}},
            "b": {"type": "object", "properties": {"x": {"$ref": "#/$defs/b"}, "y": {"$ref": "#/$defs/a"}}},
        },
    },
    "formats 900": {
        "type": "object",
        "properties": {
            f"p{k}": {"type": "string", "format": f, "maxLength": 5_000 - k}
            for k in range(300)
            for f in [["date-time", "email", "uri", "ipv6", "hostname", "uuid"][k % 6]]
        },
    },
    "format uri with pattern": {"type": "string", "format": "uri", "pattern": "^.*a.{50}$"},
    "prefixItems 1900": {"type": "array", "prefixItems": [{"type": "integer"}] * 1_900, "items": False},
    "$id and $anchor": {"$id": "http://a.b/c", "$defs": {"x": {"$anchor": "y", "type": "integer"}}, "$ref": "#y"},
    "$dynamicRef": {
        "$dynamicRef": "#n",
        "$defs": {"x": {"$dynamicAnchor": "n", "type": "array", "items": {"$dynamicRef": "#n"}}},
    },
}

REGEX = {
    "(a{1,1000}){1,1000}": "(a{1,1000}){1,1000}",
    "((a{1,100}){1,100}){1,100}": "((a{1,100}){1,100}){1,100}",
    "(.{1,1000}){1,1000}x": "(.{1,1000}){1,1000}x",
    "(((.{0,30}b){0,30}c){0,30}d){0,30}": "(((.{0,30}b){0,30}c){0,30}d){0,30}",
    "[ab]*a[ab]{16}": "[ab]*a[ab]{16}",
    "(a|b|ab)*a(a|b){300}": "(a|b|ab)*a(a|b){300}",
    "\\w{1,5000}": "\\w{1,5000}",
    "(\\w+\\s?){1,2000}": "(\\w+\\s?){1,2000}",
    "(?i) long": "(?i)" + "straße" * 150,
    "deep parens": "(" * 480 + "a" + ")*" * 480,
    "deep groups 500": "(" * 500 + ")" * 500,
    "nested alternation": "(a|" * 250 + "b" + ")*" * 250,
    "a{1000000}": "a{1000000}",
    "a{4294967295}": "a{4294967295}",
    "\\p{Any}*\\p{L}.{100}": "(?s).*\\p{L}.{100}",
    ".*a.*b ... .*": ".*".join("abcdefghijklmnopqrstuvwxyz" * 5),
    "(.*){200}": "(.*a){200}",
    "(a?){500}a{500}": "(a?){500}a{500}",
    "x*": "(x+x+)+y",
    "classes &&": "[\\w&&[^\\d]--[aeiou]]{1,500}" * 5,
    "empty": "",
}

LARK = {
    "chain of 1999 rules": "start: r0\n" + "".join(f"r{k}: r{k + 1}\n" for k in range(1_990)) + "r1990: /a/",
    "chain of 1999 tokens": "start: T0\n" + "".join(f'T{k}: T{k + 1} "a"\n' for k in range(1_990)) + "T1990: /a/",
    "doubling rules": "start: r0\n" + "".join(f"r{k}: r{k + 1} r{k + 1}\n" for k in range(60)) + "r60: /a/",
    "doubling tokens": "start: T0\n" + "".join(f"T{k}: T{k + 1} T{k + 1}\n" for k in range(60)) + "T60: /a/",
    "doubling token 20": "start: T0\n" + "".join(f"T{k}: T{k + 1} T{k + 1}\n" for k in range(20)) + "T20: /a|b/",
    "ambiguous": 'start: s\ns: s s | s s s | "a" | ',
    "left recursion empty": "start: s\ns: s s s s | e\ne: e e |",
    "nested parens 60 KB": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "nested brackets 60 KB": "start: " + "[" * 20_000 + '"a"' + "]" * 20_000,
    "nested parens token": "start: T\nT: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "nested parens 3000": "start: " + "(" * 3_000 + '"a"' + ")?" * 3_000,
    "repetition {1,1000000}": 'start: ("a" "b"){1,1000000}',
    "repetition nested": 'start: ((("a" "b"){1,1000} "c"){1,1000} "d"){1,1000}',
    "token repetition": 'start: T\nT: ((("a" "b"){1,1000} "c"){1,1000} "d"){1,1000}',
    "token repetition ~": "start: T\nT: (/a{1,1000}/){1,1000}",
    "regex": "start: /((a{1,1000}){1,1000}){1,1000}/",
    "inline json hostile": 'start: %json {"type": "integer", "multipleOf": 4999999}',
    "inline json x-guidance": 'start: %json {"type": "string", "x-guidance": {"whitespace_flexible": true}}',
    "inline json enum": 'start: %json {"enum": [' + ",".join(map(str, range(9_000))) + "]}",
    "inline json depth": "start: %json " + '{"items":' * 120 + "{}" + "}" * 120,
    "inline json maxItems": 'start: %json {"type":"array","items":{"type":"array","items":{},'
    '"minItems":4000000},"minItems":4000000,"maxItems":9000000}',
    "inline json minLength": 'start: %json {"type":"string","minLength":400000000,"maxLength":900000000}',
    "substring words": 'start: %regex {"substring_words": "' + "a b " * 15_000 + '"}',
    "substring chars": 'start: %regex {"substring_chars": "' + "abcdefgh" * 8_000 + '"}',
    "options": '%llguidance {"no_forcing": true, "allow_initial_skip": true}\nstart: /a*/',
    "ignore": "start: (/a/ /b/)*\n%ignore /(.|\\n)*/",
    "lazy": 'start: t*\nt[lazy]: /.*/ "a"',
    "lazy empty": "start: t*\nt[lazy]: /.*/",
    "max_tokens": "start: t*\nt[max_tokens=1000000]: /.*/",
    "suffix": 'start: (a b)*\na[suffix="x"]: /.*/\nb[stop=/y{1,1000}/]: /(.{1,1000}){1,1000}/',
    "nested grammar": "start: @main",
    "nested grammar self": "start: @answer",
    "nested grammar missing": "start: @nothing",
    "token range": "start: <[0-4294967295]>",
    "token range 2": "start: <[0-319]> start |",
    "special": "start: <|im_end|> start |",
    "1000 lexemes": "start: " + " | ".join(f"/.*{k}.{{20}}/" for k in range(900)),
    "1000 lexemes parallel": "start: ("
    + " | ".join(f"/[a-z]*{chr(97 + k % 26)}[a-z]{{{k}}}/" for k in range(60))
    + ")*",
    "not and": "start: T\nT: /(.|\\n)*a(.|\\n)*/ & ~/.*b.{50}/ & ~/.*c.{60}/",
    "params": 'start: p::0\np::_: "a" p::incr(_) | "b" %if bit_count(_) > 3',
    "params 2": 'start: p::0\np::_ : [ "a" p::set_bit(0) ] [ "b" p::set_bit(1) ] [ "c" p::set_bit(2) ]',
    "wide rule": "start: " + " ".join(["/a?/"] * 9_000),
    "many alternatives": "start: " + " | ".join(f'"{k}"' for k in range(7_000)),
    "import": "%import common.INT\nstart: INT{1,100000}",
    "garbage": "\x00\xff" * 5_000,
    "comment": "start: /a/ " + "#" * 60_000,
    "regex flags": "start: /(?i)((\\p{L}{1,300}){1,300}){1,300}/ilsu",
}


# Found later, while the bounds of sda_engine.output.grammar_cost were set

REFERENCES = {
    "desc": lambda path: {"description": "x", "$ref": path},
    "allOf1": lambda path: {"title": "x", "allOf": [{"$ref": path}]},
    "default": lambda path: {"$ref": path, "default": None},
    "anyOf1": lambda path: {"anyOf": [{"$ref": path}]},
    "anyOfnull": lambda path: {"anyOf": [{"$ref": path}, {"type": "null"}]},
    "type": lambda path: {"type": "object", "$ref": path},
    "anyType": lambda path: {"type": ["object", "null"], "anyOf": [{"$ref": path}, {"type": "null"}]},
    "items": lambda path: {"type": "array", "items": {"$ref": path, "description": "y"}},
    "oneOf": lambda path: {"oneOf": [{"$ref": path}, {"type": "null"}]},
}
JSON |= {f"doubling2 {name}": doubling_annotated(22, refer) for name, refer in REFERENCES.items()}
JSON["doubling2 anyOf beside properties"] = {
    "type": "object",
    "properties": {"z": {"type": "integer"}},
    "anyOf": [doubling_annotated(20, REFERENCES["desc"])],
    "$defs": doubling_annotated(20, REFERENCES["desc"])["$defs"],
}
JSON["forced later"] = text("^b?((a{99}){99}){99}$")
JSON["forced 10000 later"] = text("^b?(a{99}){99}$")
JSON["forced 10000 unicode"] = text("^b?(\\U0001F600{99}){99}$".replace("\\U0001F600", "\U0001f600"))
JSON["400 numbers int bounds"] = {
    "anyOf": [{"type": "integer", "minimum": -(2**62) + k, "maximum": 2**62 - k} for k in range(100)]
}
JSON["400 optional"] = object_of(400)
JSON["390 optional texts"] = object_of(
    390, {"type": "string", "maxLength": 10_000}, additionalProperties={"type": "string"}
)
JSON["100 patterns"] = object_of(100, text("^[a-z]{1,100}@[a-z]{1,100}$"))
JSON["100 distinct patterns anyOf"] = {"anyOf": [text(f"^.*{k}[a-z]{{1,{k + 1}}}@[a-z]{{1,100}}$") for k in range(100)]}
JSON["390 patterns anyOf no counts"] = {"anyOf": [text(f"[a-z]*{k}.*x{k + 1}.*") for k in range(390)]}
JSON["ref patterns anyOf object"] = {"anyOf": [object_of(1, text(f".*{k}.*"), required=True) for k in range(190)]}
JSON["one patternProperty + names"] = {**object_of(300), "patternProperties": {"^.*a.*b.*c.*$": {"type": "integer"}}}
JSON["additional + 390 prefixes"] = {
    "type": "object",
    "properties": {"a" * k: {"type": "integer"} for k in range(1, 300)},
    "additionalProperties": {"type": "string"},
}
JSON["formats 390"] = {
    "anyOf": [
        {
            "type": "string",
            "format": ["date-time", "email", "uri", "ipv6", "hostname", "uuid", "idn-email", "iri", "duration"][k % 6],
            "maxLength": 500 + k,
        }
        for k in range(300)
    ]
}
JSON["formats no lengths"] = {
    "anyOf": [
        {"type": "string", "format": f}
        for f in [
            "date-time",
            "email",
            "uri",
            "ipv6",
            "hostname",
            "uuid",
            "time",
            "date",
            "duration",
            "ipv4",
            "uri-reference",
            "unknown",
        ][:11]
    ]
    * 30
}
JSON["(.*a){200} anyOf"] = {"anyOf": [text(f"(.*{c}.*){{{n}}}") for c in "abcdef" for n in (30, 40, 50)]}
JSON["format maxLength"] = {"type": "string", "format": "uri", "maxLength": 5000, "minLength": 4000}
LARK["rule repetition exact"] = 'start: /b?/ ("a" "c"){1000000}'
LARK["token exact 10000"] = 'start: T\nT: /b?/ ("a" "c"){5000}'
LARK["token exact 1000000"] = 'start: T\nT: /b?/ ("a" "c"){1000000}'
LARK["forced doubling"] = "start: /b?/ r0\n" + "".join(f"r{k}: r{k + 1} r{k + 1}\n" for k in range(15)) + "r15: /a/"
REGEX["a{1000} x50"] = "b?" + "a{200}" * 50
REGEX["(.{0,1000}\\n){0,100}"] = "(.{0,1000}\\n){0,100}"
