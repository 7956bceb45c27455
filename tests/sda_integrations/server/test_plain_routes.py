import pytest

from sda_engine.alignment import PRESETS
from sda_engine.errors import ConfigError
from sda_engine.testing import ScriptedEngine, tiny_engine
from sda_integrations.server import ServerLimits
from sda_integrations.server.models import public_name


async def test_the_model_and_its_aliases_are_listed(client_of):
    client = client_of(alignments={"house": "Be kind."}, alignment="honesty", served_model_name="org/small")
    listed = (await client.get("/v1/models")).json()
    names = [card["id"] for card in listed["data"]]
    assert listed["object"] == "list"
    assert names == ["org/small", *(f"org/small:{name}" for name in (*PRESETS, "house"))]
    first, *_, last = listed["data"]
    assert first["object"] == "model"
    assert first["owned_by"] == "sda"
    assert first["max_model_len"] == 16_384
    assert (first["sda"]["alignment"], last["sda"]["alignment"]) == ("honesty", "house")
    assert (first["sda"]["thinks"], first["sda"]["reads_pictures"]) == (False, False)


async def test_each_of_them_is_found_by_its_name_whatever_stands_in_it(client_of):
    client = client_of(served_model_name="org/small")
    for name in ("org/small", "org/small:empathy"):
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name


async def test_a_model_that_is_not_served_is_told_with_those_that_are(client_of):
    reply = await client_of().get("/v1/models/scripted:honesti")
    error = reply.json()["error"]
    assert reply.status_code == 404
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "'scripted:honesti'" in error["message"]
    assert "scripted:honesty" in error["message"]


async def test_adapters_are_aliases_too_and_no_path_is_told(client_of):
    class Adapted(ScriptedEngine):
        def describe(self):
            return {**super().describe(), "model": "/secret/model", "adapters": {"legal": "/secret/adapter"}}

    with Adapted("x") as engine:
        reply = await client_of(engine).get("/v1/models")
        assert "scripted:legal" in [card["id"] for card in reply.json()["data"]]
        assert "secret" not in reply.text
        assert reply.json()["data"][0]["sda"]["adapters"] == ["legal"]
        served = client_of(engine)._transport.app.state.service
        laid = served.defaults_of(served.models.get("scripted:legal")).settings
        assert (laid.adapter, laid.alignment) == ("legal", None)
        with pytest.raises(ConfigError, match=r"'legal'.*rename"):
            client_of(engine, alignments={"legal": "Be kind."})


async def test_models_of_different_weights_are_told_apart(client_of):
    with tiny_engine() as one, tiny_engine(seed=1) as other:
        told = [(await client_of(engine).get("/v1/models")).json()["data"][0]["sda"] for engine in (one, other)]
    assert told[0]["identity"] != told[1]["identity"]


def test_a_folder_is_called_by_its_last_part(tmp_path):
    (tmp_path / "my-model").mkdir()
    assert public_name(str(tmp_path / "my-model")) == "my-model"
    assert public_name("some-org/some-model") == "some-org/some-model"


async def test_alignments_with_a_name_are_listed_with_what_they_say(client_of):
    house = {"instruction": "Be kind.", "avoid": "Cold words."}
    reply = (await client_of(alignments={"house": house}).get("/v1/sda/presets")).json()
    told = {one["name"]: one for one in reply["data"]}
    assert list(told) == [*PRESETS, "house"]
    assert told["honesty"]["instruction"] == PRESETS["honesty"].instruction
    assert told["honesty"]["rubric"] == PRESETS["honesty"].rubric
    assert told["house"]["avoid"] == "Cold words."


async def test_a_text_is_tokenised_plainly(client_of, scripted):
    reply = (await client_of().post("/tokenize", json={"prompt": "the <|im_end|> fox"})).json()
    assert reply["tokens"] == scripted.encode("the <|im_end|> fox")
    assert (reply["count"], reply["max_model_len"]) == (len(reply["tokens"]), 16_384)


async def test_a_chat_is_counted_as_its_prompt_with_its_tools(client_of, scripted):
    messages = [{"role": "user", "content": "hello"}]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    plain = (await client_of().post("/tokenize", json={"messages": messages})).json()
    tooled = (await client_of().post("/tokenize", json={"messages": messages, "tools": [tool]})).json()
    assert plain == {"count": scripted.count_prompt_tokens(messages), "max_model_len": 16_384}
    assert tooled["count"] > plain["count"]


async def test_a_long_chat_is_refused_by_the_field(client_of):
    client = client_of(limits=ServerLimits(messages=2))
    reply = await client.post("/tokenize", json={"messages": [{"role": "user", "content": "a"}] * 3})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "messages"
    assert "2 at most" in reply.json()["error"]["message"]


async def test_too_many_tools_are_refused_by_the_field(client_of):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    client = client_of(limits=ServerLimits(tools=1))
    reply = await client.post("/tokenize", json={"messages": [{"role": "user", "content": "a"}], "tools": [tool] * 2})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools")


async def test_health_tells_an_engine_that_has_stopped(client_of):
    with tiny_engine() as engine:
        client = client_of(engine)
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.head("/health")).status_code == 200, "some balancers ask so"
    reply = await client.get("/health")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "engine_stopped"
    for path in ("/v1/models", "/metrics"):
        assert (await client.get(path)).status_code == 200, "what is known stays known"


async def test_the_openapi_file_describes_bodies_by_the_models_that_read_them(client_of):
    told = (await client_of().get("/openapi.json")).json()
    body = told["paths"]["/tokenize"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schemas = told["components"]["schemas"]
    assert body["$ref"].rpartition("/")[2] in schemas
    for name in references(told):
        assert name in schemas, "every reference leads somewhere"


def references(part):
    """The names that `$ref` in a part of an OpenAPI file refers to."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value.removeprefix("#/components/schemas/")
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)
