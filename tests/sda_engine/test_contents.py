"""Contents of messages: texts and pictures, how they come together, and who sees what of them."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sda_engine import EngineSettings, Steering
from sda_engine.alignment import PRESETS
from sda_engine.apart import Apart
from sda_engine.choosing import values_to_keep
from sda_engine.contents import has_pictures, joined, pictures_of
from sda_engine.errors import MessageError
from sda_engine.evaluators import EvaluationRequest
from sda_engine.evaluators.cached import CachedEvaluator
from sda_engine.evaluators.verdict import make_rating_prompt
from sda_engine.models import TurnRules
from sda_engine.output import Output
from sda_engine.prompts import draft_messages, make_contexts, normalise_messages, place_instruction, read_messages
from sda_engine.request_settings import RequestSettings
from sda_engine.testing import ScriptedEvaluator, tiny_tokenizer
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.drawings import data_url, picture_file

LIMITS = EngineSettings().picture_limits
RED = {"type": "image", "image": data_url("red")}
BLUE = {"type": "image", "image": data_url("blue")}
HONESTY = PRESETS["honesty"]


def text(words):
    return {"type": "text", "text": words}


def read(*parts):
    """A chat of one user turn, as the engine works with it."""
    return read_messages(user(list(parts)), LIMITS)


def seen(content):
    """A content with the colour of the first pixel in place of each picture."""
    if isinstance(content, str):
        return content
    return [part["text"] if part["type"] == "text" else part["picture"].image.getpixel((0, 0)) for part in content]


R, B = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": Image.new("RGB", (4, 3), "red")},
        {"type": "image", "image": picture_file("red")},
        {"type": "image", "url": data_url("red")},
        {"type": "image_url", "image_url": {"url": data_url("red"), "detail": "low"}},
        {"type": "image_url", "image_url": data_url("red")},
    ],
)
def test_a_picture_is_read_from_every_kind_of_part(part):
    (turn,) = read(text("What is it?"), part)
    assert seen(turn["content"]) == ["What is it?", R]
    assert pictures_of([turn]) == pictures_of(read(RED))


def test_a_file_is_named_by_a_path_and_never_by_a_text(tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(picture_file("red"))
    for key in ("image", "path"):
        assert pictures_of(read({"type": "image", key: file})) == pictures_of(read(RED))
        with pytest.raises(MessageError, match="no text may open one"):
            read({"type": "image", key: str(file)})


def test_texts_that_follow_each_other_are_one_and_pictures_keep_their_places():
    (turn,) = read(text("one"), text("two"), RED, text(""), BLUE, text("three"))
    assert seen(turn["content"]) == ["one\ntwo", R, B, "three"]


def test_reading_twice_reads_once_and_changes_no_message():
    given = user([text("What?"), RED])
    once = read_messages(given, LIMITS)
    assert given == user([text("What?"), RED])
    (again,) = pictures_of(read_messages(once, LIMITS))
    assert again is pictures_of(once)[0]


def test_pictures_are_found_before_and_after_they_are_read():
    messages = normalise_messages([*user("Hi"), *user([RED])])
    assert has_pictures(messages)
    assert pictures_of(messages) == ()
    assert not has_pictures(normalise_messages(user([text("Hi")])))


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_and_tools_show_pictures(role):
    with pytest.raises(MessageError, match=rf"messages\[0\] has the role '{role}' and holds a picture"):
        normalise_messages([{"role": role, "content": [RED]}])


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "audio", "audio": b"x"}, "of type 'audio': each part must be"),
        ("words", "of type 'str'"),
        ({"type": "text"}, "text of type NoneType"),
        ({"type": "image"}, "image part without an image"),
        ({"type": "image_url", "image_url": {}}, "image part without an image"),
    ],
)
def test_parts_that_are_neither_are_refused(part, said):
    with pytest.raises(MessageError, match=said):
        normalise_messages(user([part]))


def test_too_many_pictures_are_refused_before_one_is_read():
    limits = EngineSettings(max_pictures=1).picture_limits
    broken = {"type": "image", "image": b"broken"}
    with pytest.raises(MessageError, match=r"hold 2 pictures: a request may have 1 at most.*max_pictures"):
        read_messages([*user([broken]), *user([RED])], limits)
    with pytest.raises(MessageError, match=r"messages\[1\] has a picture that cannot be read"):
        read_messages([*user("Hi"), *user([broken])], limits)


def test_joined_texts_are_a_text_and_pictures_stay_between():
    assert joined(["a", "b"], "\n") == "a\nb"
    assert joined(["", "b"], "\n") == "\nb"
    assert joined([[text("a"), RED], [RED, text("b")]], "|") == [text("a"), RED, text("|"), RED, text("b")]


@pytest.mark.parametrize(
    ("parts", "placed"),
    [
        ([RED, text("What?")], [R, "What?\nBe kind."]),
        ([text("What?"), RED], ["What?", R, "\nBe kind."]),
        ([RED], [R, "\nBe kind."]),
    ],
)
def test_an_instruction_stands_behind_all_pictures_so_that_they_are_shared(parts, placed):
    messages = [*read(*parts), {"role": "assistant", "content": "Hm."}]
    assert seen(place_instruction(messages, "Be kind.", "after_query")[0]["content"]) == placed
    system, turn, _ = place_instruction(messages, "Be kind.", "system")
    assert (system["content"], turn) == ("Be kind.", messages[0])


def test_turns_that_a_template_wants_as_one_keep_their_pictures():
    rules = TurnRules(False, False, False, joined=frozenset({"user"}))
    turns = [{"role": "system", "content": "Be brief."}, *read(RED), *user("Why?"), *read(text("And?"), BLUE)]
    (turn,) = rules.fit(turns)
    assert seen(turn["content"]) == ["Be brief.\n\n", R, "\n\nWhy?\n\nAnd?", B]


def test_a_picture_that_a_tool_brings_goes_into_the_users_turn_where_the_template_knows_no_tools(monkeypatch):
    tokenizer = SafeTokenizer(tiny_tokenizer(), pictures=LIMITS)
    rendered = []
    monkeypatch.setattr(tokenizer, "render", lambda turns, tools=(): rendered.extend(turns) or [1, 2])
    monkeypatch.setattr(tokenizer, "prepare", lambda picture: SimpleNamespace(number=1, picture=picture))
    result = {"role": "tool", "tool_call_id": "1", "content": [RED]}
    make_contexts([*user("Draw."), result, result], None, tokenizer)
    between = "\n</tool_response>\n\n<tool_response>\n"
    assert seen(rendered[1]["content"]) == ["<tool_response>\n", R, between, R, "\n</tool_response>"]


def test_a_revision_sees_the_pictures_of_the_chat_whatever_else_it_sees():
    messages = read(text("What?"), RED)
    for sees in ("question", "chat", "answer"):
        assert len(pictures_of(draft_messages(messages, "A square.", sees))) == 1


def test_what_is_to_be_kept_is_looked_for_in_the_texts_around_pictures():
    messages = read(text("The card costs 12 euros and the reading room opens at nine.\nWhat does it cost?"), RED)
    assert values_to_keep(messages, "It costs 12 euros.") == values_to_keep(
        user("The card costs 12 euros and the reading room opens at nine.\nWhat does it cost?"), "It costs 12 euros."
    )


def test_a_judge_is_told_where_a_picture_was():
    prompt = make_rating_prompt(EvaluationRequest(read(text("What?"), RED), "A square.", HONESTY), code="c")
    assert "What?\n[image]\n" in prompt.user


def test_kept_scores_tell_pictures_apart():
    evaluator = ScriptedEvaluator([10, 20])
    cached = CachedEvaluator(evaluator)
    red, blue, same = (EvaluationRequest(read(part), "A square.", HONESTY) for part in (RED, BLUE, RED))
    assert [cached.evaluate(request).value for request in (red, blue, same)] == [10, 20, 10]


def test_pictures_are_read_off_the_event_loop():
    messages = normalise_messages(user([RED]))
    settings = RequestSettings(steering=Steering(), output=Output())
    ran_in = asyncio.run(Apart(messages, settings).run(threading.current_thread))
    assert ran_in is not threading.main_thread()
    assert asyncio.run(Apart(user("Hi"), settings).run(threading.current_thread)) is threading.main_thread()


@pytest.mark.parametrize("method", ["generate", "stream", "count_prompt_tokens"])
def test_a_model_that_reads_text_only_refuses_pictures_with_the_models_to_load(method, engine):
    assert not engine.reads_pictures
    asked = [*user("Hi"), {"role": "assistant", "content": "Hi"}, *user([{"type": "image", "image": b"broken"}])]
    with pytest.raises(MessageError, match=r"messages\[2\] holds a picture.*reads text only.*Qwen2\.5-VL"):
        getattr(engine, method)(asked)


async def test_it_refuses_them_on_an_event_loop_and_where_texts_are_scored(engine):
    with pytest.raises(MessageError, match="reads text only"):
        await engine.agenerate(user([RED]))
    with pytest.raises(MessageError, match="reads text only"):
        engine.continuation_logprobs(user([RED]), ["A square."])


def test_it_opens_no_file_for_them(engine, monkeypatch):
    monkeypatch.setattr(Path, "open", None)
    with pytest.raises(MessageError, match="reads text only"):
        engine.generate(user([{"type": "image", "image": Path(__file__)}]))
