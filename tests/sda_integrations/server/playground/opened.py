"""The page as a reader has it: what they do, and what they see."""

from collections.abc import Mapping
from typing import Any

from playwright.sync_api import ConsoleMessage, Error, Locator, Page, expect


class Opened:
    """The page in a window.

    Args:
        window: what shows it. It may have shown something else before.
        address: of the server.
    """

    def __init__(self, window: Page, address: str) -> None:
        self.page = window
        self.address = address
        self.complaints: list[str] = []
        self.page.set_viewport_size({"width": 1280, "height": 800})
        self.page.emulate_media(color_scheme="light", reduced_motion="reduce")
        self.page.on("pageerror", self._note_error)
        self.page.on("console", self._note_message)

    def _note_error(self, error: Error) -> None:
        self.complaints.append(str(error))

    def _note_message(self, message: ConsoleMessage) -> None:
        refused = message.text.startswith("Failed to load resource")  # a reply of the server that is an error
        if message.type in ("error", "warning") and not refused:
            self.complaints.append(message.text)

    def leave(self) -> None:
        """Leaves the page, which ends what it still asks for."""
        self.page.goto("about:blank")
        self.page.unroute_all()
        self.page.remove_listener("pageerror", self._note_error)
        self.page.remove_listener("console", self._note_message)

    def connect(self) -> Page:
        """Opens the page, and waits until it knows the models."""
        self.page.goto(self.address)
        expect(self.page.locator("#model option").first).to_be_attached()
        return self.page

    def run(self, fields: Mapping[str, str] | None = None, *, until: str = "Done.") -> None:
        """Fills fields by their labels, runs, and waits for what the status line then says."""
        for label, value in (fields or {}).items():
            self.page.get_by_label(label, exact=True).fill(value)
        self.page.get_by_role("button", name="Run").click()
        expect(self.page.locator("#status")).to_have_text(until)

    def answer(self, kind: str) -> Locator:
        return self.page.locator(f"[data-kind={kind}]")

    def text(self, kind: str) -> str:
        """The text of an answer, as it came."""
        return self.answer(kind).locator(".said").text_content() or ""

    def figures(self, kind: str) -> dict[str, str]:
        return self._pairs(self.answer(kind).locator("dl.figures"))

    def details(self) -> dict[str, str]:
        """The figures of the token that the panel shows."""
        return self._pairs(self.page.locator("#details dl.figures"))

    def code(self, language: str) -> str:
        self.page.get_by_role("tab", name=language).click()
        return self.page.locator("#snippet code").text_content() or ""

    def violations(self) -> list[str]:
        """What axe-core finds wrong for those who use no mouse, or no eyes."""
        from axe_playwright_python.sync_playwright import Axe

        found: dict[str, Any] = Axe().run(self.page).response
        return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found["violations"]]

    @staticmethod
    def _pairs(figures: Locator) -> dict[str, str]:
        names, values = figures.locator("dt").all_text_contents(), figures.locator("dd").all_text_contents()
        return dict(zip(names, values, strict=True))
