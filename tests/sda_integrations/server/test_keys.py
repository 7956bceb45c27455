import base64

import pytest

from sda_integrations.server.service import caller_of

ROUTES = (
    ("GET", "/v1/models"),
    ("GET", "/v1/models/scripted"),
    ("GET", "/v1/sda/presets"),
    ("POST", "/tokenize"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/no/such/route"),
)


@pytest.fixture
def keyed(client_of):
    return client_of(api_keys=("first-key", "second-key"))


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer("first-ke"),
        bearer("first-key2"),
        bearer(""),
        {"authorization": "first-key"},
        {"authorization": "Basic first-key"},
        {"x-api-key": "first-key"},
    ],
)
async def test_no_route_but_health_answers_without_a_key(keyed, method, path, headers):
    reply = await keyed.request(method, path, headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.json()["error"]["type"] == "authentication_error"
    assert reply.headers["www-authenticate"]
    assert "first-key" not in reply.text


async def test_each_key_opens_and_health_needs_none(keyed):
    assert (await keyed.get("/v1/models", headers=bearer("first-key"))).status_code == 200
    assert (await keyed.get("/v1/models", headers={"authorization": "bearer second-key"})).status_code == 200
    assert (await keyed.get("/health")).status_code == 200


async def test_every_route_of_the_application_is_guarded(keyed):
    """So that a route that is added later is guarded without anybody's thinking of it."""
    routes = keyed._transport.app.openapi()["paths"]
    assert len(routes) > 5
    for path in routes.keys() - {"/health"}:
        for method in routes[path]:
            assert (await keyed.request(method, path)).status_code == 401, (method, path)


async def test_two_keys_at_once_are_none(keyed):
    headers = [("authorization", "Bearer first-key"), ("authorization", "Bearer second-key")]
    assert (await keyed.get("/v1/models", headers=headers)).status_code == 401


async def test_only_the_page_asks_a_browser_for_the_key(keyed):
    basic = {"authorization": f"Basic {base64.b64encode(b'anyone:first-key').decode()}"}
    assert (await keyed.get("/")).headers["www-authenticate"].startswith("Basic")
    assert (await keyed.get("/", headers=basic)).status_code != 401
    assert (await keyed.get("/v1/models", headers=basic)).status_code == 401
    assert (await keyed.get("/v1/models")).headers["www-authenticate"].startswith("Bearer")


async def test_without_keys_anybody_may_ask_and_nothing_is_salted(client_of):
    client = client_of()
    salts = note_salts(client)
    assert (await client.get("/v1/models")).status_code == 200
    assert salts == [None]


async def test_each_key_has_a_salt_of_its_own_that_lasts_and_means_nothing_elsewhere(client_of):
    keys = ("first-key", "second-key")
    client, other = client_of(api_keys=keys), client_of(api_keys=keys)
    salts, elsewhere = note_salts(client), note_salts(other)
    for key in ("first-key", "second-key", "first-key"):
        await client.get("/v1/models", headers=bearer(key))
        await other.get("/v1/models", headers=bearer(key))
    assert salts[0] == salts[2] != salts[1]
    assert not set(salts) & set(elsewhere), "another process must not have the same"
    assert "first-key" not in salts[0]


def note_salts(client):
    """What routes see of who asks, as it comes."""
    app, salts = client._transport.app, []

    @app.middleware("http")
    async def note(request, call_next):
        reply = await call_next(request)
        salts.append(caller_of(request).cache_salt)
        return reply

    return salts
