"""The page as one reply: what it may do, and that nothing is missing. No browser is needed for that."""

import base64
import hashlib
import re

from sda_integrations.server.playground import playground_page

PAGE = playground_page()


def policy():
    return dict(part.split(" ", 1) for part in PAGE.content_security_policy.split("; "))


def content_of(element):
    (found,) = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", PAGE.html, flags=re.DOTALL)
    return found


def test_the_policy_names_the_style_and_the_script_of_the_page_and_nothing_else():
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        digest = hashlib.sha256(content_of(element).encode()).digest()
        assert policy()[directive] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert policy()["default-src"] == "'none'"
    assert policy()["connect-src"] == "'self'"


def test_the_page_names_no_other_host():
    addresses = set(re.findall(r"\b(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", PAGE.html))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name space of the icon, which nobody fetches"
    assert re.findall(r"<(?:link|script|img|iframe)[^>]+(?:src|href)=\"(?!data:)", PAGE.html) == []


def test_the_script_makes_no_markup_out_of_text_and_keeps_nothing():
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Storage", "cookie ="):
        assert forbidden not in content_of("script")


def test_the_page_is_made_once():
    assert playground_page() is PAGE


def test_every_element_that_the_script_asks_for_by_its_id_is_there():
    ids = set(re.findall(r'\bid="([\w-]+)"', PAGE.html))
    assert set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', content_of("script"))) <= ids
