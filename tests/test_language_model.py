"""Asking a language model, through the real client, of a server on this machine that misbehaves as servers do."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from alchemint import language_model
from alchemint.language_model import LateAnswerError, ServerError, UnusableAnswerError, ask
from tests.language_server import LanguageServer, serving

pytest.importorskip("openai")
QUESTION = [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}]


class Count(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    unit: str = Field(min_length=1)


GOOD = {"number": 3, "unit": "foxes"}


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with serving() as running:
        yield running


def asked(server: LanguageServer, attempts: int = 3, **options: Any) -> Count:
    client = language_model.connect(server.url, **{"timeout_s": 5.0, "retries": 1, **options})
    return ask(client, "m", QUESTION, Count, lambda count: ["too many"] if count.number > 3 else [], attempts)


def test_a_sound_answer_is_returned_at_once(server: LanguageServer) -> None:
    server.answers.append(json.dumps(GOOD))
    assert asked(server) == Count(number=3, unit="foxes")
    (request,) = server.requests
    assert request["messages"] == QUESTION
    assert request["temperature"] == 0
    schema = request["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["name"] == "count"
    assert schema["schema"] == {"type": "object", "additionalProperties": False, "required": ["number", "unit"],
                                "properties": {"number": {"type": "integer"}, "unit": {"type": "string"}}}


def test_faults_are_told_and_the_answer_after_them_counts(server: LanguageServer) -> None:
    server.answers += ["no JSON at all", '{"number": "many", "unit": ""}', json.dumps({**GOOD, "number": 9}),
                       json.dumps(GOOD)]
    assert asked(server, attempts=4).number == 3
    told = [request["messages"][-1]["content"] for request in server.requests[1:]]
    assert "Invalid JSON" in told[0]
    assert "number: Input should be a valid integer" in told[1]
    assert "unit: " in told[1]
    assert told[2] == "That does not fit: too many. Answer again."
    assert server.requests[3]["messages"][-2] == {"role": "assistant", "content": json.dumps({**GOOD, "number": 9})}


@pytest.mark.parametrize("answer", [
    'Sure! Here it is:\n```json\n{"number": 3, "unit": "foxes"}\n```\nAnything else?',
    '<think>{"number": 1}? No, three.</think>\n{"number": 3, "unit": "foxes"}'])
def test_what_stands_around_the_answer_does_not_matter(server: LanguageServer, answer: str) -> None:
    server.answers.append(answer)
    assert asked(server) == Count(number=3, unit="foxes")


def test_after_the_last_attempt_the_faults_are_the_reason(server: LanguageServer) -> None:
    server.answers += [json.dumps({**GOOD, "number": number}) for number in (7, 8, 9)]
    with pytest.raises(UnusableAnswerError, match=r"^invalid after 3 attempts: too many$"):
        asked(server)
    assert len(server.requests) == 3


def test_a_model_that_repeats_a_wrong_answer_is_given_up(server: LanguageServer) -> None:
    server.answers += ["{}", json.dumps({**GOOD, "number": 9}), "{}", json.dumps(GOOD)]
    with pytest.raises(UnusableAnswerError, match=r"^invalid after 3 attempts, the same answer twice: number: "):
        asked(server, attempts=9)
    assert server.answers == [json.dumps(GOOD)]


def test_an_answer_that_was_cut_off_is_told_to_be(server: LanguageServer) -> None:
    server.answers.append({"content": '{"number": 3, "unit": "foxes foxes foxes', "finish_reason": "length"})
    with pytest.raises(UnusableAnswerError, match="the answer was cut off; be brief"):
        asked(server, attempts=1)


@pytest.mark.parametrize("message", [{"content": None}, {"content": ""}, {"content": "[3]"}])
def test_an_answer_of_nothing_is_a_fault(server: LanguageServer, message: dict[str, Any]) -> None:
    server.answers.append(message)
    with pytest.raises(UnusableAnswerError, match="invalid after 1 attempts: the answer"):
        asked(server, attempts=1)


def test_a_refusal_ends_it(server: LanguageServer) -> None:
    server.answers.append({"content": None, "refusal": "I don't count foxes."})
    with pytest.raises(UnusableAnswerError, match=r"^refused: I don't count foxes\.$"):
        asked(server)
    assert len(server.requests) == 1


def test_a_busy_server_is_tried_again(server: LanguageServer) -> None:
    server.answers += [503, 429, json.dumps(GOOD)]
    assert asked(server, retries=2).number == 3


@pytest.mark.parametrize("answer", [500, 503, 429, 401, 404])
def test_a_server_that_stays_in_error_is_named(server: LanguageServer, answer: int) -> None:
    server.answers += [answer] * 2
    with pytest.raises(ServerError, match=rf"{server.url}/ did not answer: Error code: {answer}"):
        asked(server)


def test_no_answer_in_time(server: LanguageServer) -> None:
    server.answers += [1.0] * 2
    began = time.monotonic()
    with pytest.raises(LateAnswerError, match=r"gave no answer within 0\.2 s"):
        asked(server, timeout_s=0.2)
    assert time.monotonic() - began < 5
    assert len(server.requests) == 2


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match="did not answer: Connection error"):
        ask(language_model.connect(url, retries=0), "m", QUESTION, Count)


@pytest.mark.parametrize("body", [b"<html>It works!</html>", b'{"choices": [', b"{}", b'{"choices": []}', b'"hello"',
                                  b'{"choices": [{"message": null}]}', b"null"])
def test_a_server_that_speaks_something_else_is_named(server: LanguageServer, body: bytes) -> None:
    server.answers += [body] * 2
    with pytest.raises(ServerError, match="correct the URL"):
        asked(server)


@pytest.mark.parametrize(("refused", "formats"), [
    (("json_schema",), ["json_schema", "json_object", "json_object"]),
    (("json_schema", "json_object"), ["json_schema", "json_object", None, None])])
def test_servers_without_schemas_are_asked_otherwise_from_then_on(server: LanguageServer, refused: tuple[str, ...],
                                                                  formats: list[str | None]) -> None:
    server.refused_formats = refused
    server.answers += [json.dumps(GOOD)] * 2
    client = language_model.connect(server.url)
    for _ in range(2):
        assert ask(client, "m", QUESTION, Count).number == 3
    assert [request.get("response_format", {}).get("type") for request in server.requests] == formats
    for request in server.requests[-2:]:
        told = request["messages"][0]["content"]
        assert told.startswith("Count.\nAnswer with one JSON object")
        assert json.loads(told[told.index("{"):])["required"] == ["number", "unit"]
        assert request["messages"][1:] == QUESTION[1:]


def test_a_question_that_is_refused_in_any_form_is_no_matter_of_forms(server: LanguageServer) -> None:
    server.answers += [400, 400, 400, json.dumps(GOOD)]
    client = language_model.connect(server.url)
    with pytest.raises(ServerError, match="does not take the question: Error code: 400"):
        ask(client, "m", QUESTION, Count)
    assert ask(client, "m", QUESTION, Count).number == 3
    assert server.requests[-1]["response_format"]["type"] == "json_schema"


def test_the_client_is_told_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'alchemint\[llm\]'"):
        language_model.connect("http://localhost:1/v1")


def test_openais_own_server_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        language_model.connect(None)
