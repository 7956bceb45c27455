"""Every spelling of a tool choice that frameworks and their users know, for a tool named weather."""

SPELLINGS = (
    (None, "auto"),
    ("auto", "auto"),
    ({"type": "auto"}, "auto"),
    ("none", "none"),
    (False, "none"),
    ({"type": "none"}, "none"),
    ("any", "required"),
    ("required", "required"),
    (True, "required"),
    ({"type": "any"}, "required"),
    ("weather", "weather"),
    ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ({"type": "function", "name": "weather"}, "weather"),
    ({"type": "tool", "name": "weather"}, "weather"),
)
