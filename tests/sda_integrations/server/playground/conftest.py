"""One browser for all tests of this folder, and the page of a scripted server in it."""

import shutil

import pytest

from tests.sda_integrations.server.playground.opened import Opened
from tests.sda_integrations.server.playground.scripted_server import Script, serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]  # the superuser of a container has no sandbox


@pytest.fixture(scope="package")
def window():
    """A window of the system's own Chromium; nothing is downloaded. All tests open the page in the same one.

    Not for the whole session: as long as it runs, this thread has a running event loop, and asynchronous tests want one
    of their own.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"the page is tried in a browser, and there is none of {', '.join(BROWSERS)}: apt install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # a busy machine must not fail a test
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser.new_page()
        browser.close()


@pytest.fixture
def script():
    """What the server answers; a test changes it before it opens the page."""
    return Script()


@pytest.fixture
def opened(window, script):
    """The page, connected. What a browser complains of, be it the script or the page's policy, fails the test."""
    with serving(script) as address:
        one = Opened(window, address)
        yield one
        one.leave()
    assert one.complaints == []
