"""The page that `sda serve` shows at `/`: one prompt with three answers, plain, in the prompt and steered."""

from sda_integrations.server.playground.page import Page, playground_page

__all__ = ["Page", "playground_page"]
