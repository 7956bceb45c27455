"""How the page reaches the server: with a key or without, and what it says where it does not."""

from playwright.sync_api import expect

from tests.sda_integrations.server.playground.scripted_server import KINDS


def test_no_key_is_asked_for_where_the_server_wants_none(opened, script):
    page = opened.connect()
    opened.run()
    assert not page.locator("#connection").is_visible()
    assert set(script.keys) == {None}
    assert script.paths == ["/", "/v1/models", "/v1/sda/presets", *["/v1/chat/completions"] * 3]


def test_a_key_is_asked_for_and_kept_in_memory_alone(opened, script):
    script.key = "secret-key"
    page = opened.page
    page.goto(opened.address)
    trouble = page.locator("#trouble")
    expect(trouble).to_have_text("This server asks for an API key.")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(trouble).to_have_text("This key is not one of the server's.")
    page.get_by_label("API key").fill("secret-key")
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_be_hidden()
    opened.run()
    assert script.keys == [None, "Bearer wrong", *["Bearer secret-key"] * 5]
    kept = "() => [JSON.stringify({...localStorage, ...sessionStorage}), document.cookie, location.href]"
    assert page.evaluate(kept) == ["{}", "", opened.address]
    assert not any("secret" in path for path in script.paths)
    page.reload()
    expect(trouble).to_have_text("This server asks for an API key.")


def test_a_key_that_is_withdrawn_is_asked_for_again(opened, script):
    page = opened.connect()
    script.key = "new-key"
    opened.run(until="No answer.")
    expect(page.get_by_label("API key")).to_be_focused()
    for kind in KINDS:
        assert opened.answer(kind).get_by_role("alert").text_content() == "This key is not one of the server's."


def test_a_server_that_is_not_ready_can_be_asked_again(opened, script):
    script.errors["/v1/models"] = (503, {"message": "The server is shutting down."})
    page = opened.page
    page.goto(opened.address)
    expect(page.locator("#trouble")).to_have_text("The server is shutting down.")
    assert not page.get_by_label("API key").is_visible()
    del script.errors["/v1/models"]
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#connection")).to_be_hidden()
    opened.run()


def test_a_server_that_cannot_be_reached_is_told(opened):
    page = opened.connect()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    opened.run(until="No answer.")
    assert opened.answer("plain").get_by_role("alert").text_content() == "The server cannot be reached."


def test_something_else_that_answers_at_this_address_is_told(opened):
    page = opened.page
    page.route("**/v1/models", lambda route: route.fulfill(body="<h1>Welcome</h1>"))
    page.goto(opened.address)
    expect(page.locator("#trouble")).to_have_text("What answers here is no server of SDA.")
