"""Puts the parts of the page together, with the policy that names them to the browser."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_SCRIPTS = ("server.js", "settings.js", "snippets.js", "tokens.js", "details.js", "answers.js", "page.js")
"""The parts of the script. They make one module, so that each sees the others' functions and the browser's globals stay
clean; the last one starts the page."""

_ANSWERS = (
    ("plain", "Plain", "no alignment"),
    ("prompt", "In the prompt", "the instruction alone"),
    ("steered", "Steered", "a step further"),
)
_LANGUAGES = (("langchain", "LangChain"), ("llamaindex", "LlamaIndex"), ("curl", "curl"))


@dataclass(frozen=True, slots=True)
class Page:
    """A page and what it may do.

    Attributes:
        html: the whole page; it needs nothing but the server's own routes.
        content_security_policy: value of the header that goes with it. Only the style and the script of the page itself
            run, only this server is asked, and no text can become markup.
    """

    html: str
    content_security_policy: str


@cache
def playground_page() -> Page:
    """The page at `/`, with the value of its Content-Security-Policy header. It is the same for every user."""
    style = _part("page.css")
    script = "\n".join(map(_part, _SCRIPTS))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(_part("page.html.j2")).render(
        style=_as_it_is(style, "</style"),
        script=_as_it_is(script, "</script"),
        answers=_ANSWERS,
        languages=_LANGUAGES,
    )
    return Page(html, _policy(style, script))


def _part(name: str) -> str:
    return files("sda_integrations.server.playground").joinpath("parts", name).read_text(encoding="utf-8")


def _as_it_is(text: str, end: str) -> Markup:
    """Our own text, which a browser reads up to its end mark without looking for entities."""
    assert end not in text.lower(), f"{end} would end the element early, and its hash would be another one"
    return Markup(text)  # noqa: S704 (a file of this package)


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            "connect-src 'self'",
            "img-src data:",  # the icon
            "base-uri 'none'",
            "form-action 'none'",  # a key that is typed never becomes part of an address
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # the browser itself refuses innerHTML
            "trusted-types 'none'",
        )
    )


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
