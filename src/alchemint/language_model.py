"""Asking a language model behind any OpenAI-compatible server for an answer of a given form.

The answer is JSON by a schema, checked by the caller's own rules; one that does not fit is sent back with its faults,
a few times. Connections that were lost and servers that are busy are tried again by the client.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    import openai

Answer = TypeVar("Answer", bound=BaseModel)
Message = Mapping[str, Any]

_FORMATS = ("json_schema", "json_object", "text")
"""Ways to ask for JSON, the strictest first; a server that refuses one is asked by the next."""

_format_of: "WeakKeyDictionary[openai.OpenAI, int]" = WeakKeyDictionary()
_LONGEST_TOLD = 300


class AnswerError(Exception):
    """Says why there is no answer."""


class UnusableAnswerError(AnswerError):
    """The model refused, or what it answered does not fit however often it was asked."""


class LateAnswerError(AnswerError):
    """No answer came in time, in spite of the client's retries."""


class ServerError(AnswerError):
    """The server can't be reached, or answers with an error, in spite of the client's retries."""


def connect(url: str | None, timeout_s: float = 600.0, retries: int = 5) -> "openai.OpenAI":
    """Return a client of the server at `url` (None: OpenAI's own); its key is read from OPENAI_API_KEY.

    Args:
        url: with the version, as in http://localhost:8000/v1.
        timeout_s: seconds that an answer may take.
        retries: times that a lost connection, a busy server or a late answer is tried again, at growing intervals.

    Raises:
        ValueError: when the package openai is not installed, or OpenAI's own server is asked without a key.
    """
    try:
        import openai
    except ImportError:
        raise ValueError("a language model is asked through the package openai; install it with "
                         "pip install 'alchemint[llm]'") from None
    key = os.environ.get("OPENAI_API_KEY")
    if url is None and "OPENAI_BASE_URL" not in os.environ and not key:
        raise ValueError("a language model needs the URL of an OpenAI-compatible server (such as "
                         "http://localhost:8000/v1), or a key of OpenAI's own in OPENAI_API_KEY; give one of them")
    # Servers of one's own take any key, but the client wants one.
    return openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=retries)


def served_model(client: "openai.OpenAI") -> str:
    """Return the name of the only model that a server has.

    Raises ValueError when it has several, of which one is to be named, or can't be reached.
    """
    import openai

    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise ValueError(f"the language model at {client.base_url} did not answer ({str(error)[:_LONGEST_TOLD]}); "
                         "start it, or correct its URL") from error
    if len(names) != 1:
        there = ", ".join(names[:8]) or "none"
        raise ValueError(f"the server at {client.base_url} has {len(names)} models ({there}); name the one to ask")
    return names[0]


def ask(client: "openai.OpenAI", model: str, messages: Sequence[Message], answer: type[Answer],
        faults: Callable[[Answer], list[str]] = lambda _: [], attempts: int = 3) -> Answer:
    """Return what the model answers, once it is a valid `answer` without faults.

    Args:
        client: see `connect`. What form of answers its server supports is found out once.
        model: as the server calls it.
        messages: of the chat, the instruction first.
        answer: a pydantic model without optional fields, as strict servers want it.
        faults: what is wrong with an answer, a line each; the model is told.
        attempts: times that the model is asked, at most; once it gives the same wrong answer twice it is given up.

    Raises:
        UnusableAnswerError: "refused: …" or "invalid after … attempts: …", with the last answer's faults.
        LateAnswerError: when no answer came within the client's time.
        ServerError: when the server did not answer, or with an error.
    """
    if attempts < 1:
        raise ValueError(f"attempts {attempts}: must be 1 or more")
    said = list(messages)
    wrong: set[str] = set()
    for attempt in range(1, attempts + 1):
        content, ended = _completed(client, model, said, answer)
        try:
            parsed = answer.model_validate_json(_json_part(content))
            found = faults(parsed)
        except ValidationError as error:
            found = [f"{'.'.join(map(str, fault['loc'])) or 'the answer'}: {fault['msg']}" for fault in error.errors()]
            if ended == "length":
                found.insert(0, "the answer was cut off; be brief")
        if not found:
            return parsed
        repeated = content in wrong
        if repeated or attempt == attempts:
            raise UnusableAnswerError(f"invalid after {attempt} attempts{', the same answer twice' if repeated else ''}"
                                      f": {'; '.join(found)}")
        wrong.add(content)
        said += [{"role": "assistant", "content": content},
                 {"role": "user", "content": f"That does not fit: {'; '.join(found)}. Answer again."}]
    raise AssertionError("the last attempt returns or raises")


def _completed(client: "openai.OpenAI", model: str, messages: list[Message],
               answer: type[BaseModel]) -> tuple[str, str]:
    """Return what the model says next and why it ended, in the strictest form that the server supports."""
    import openai

    first = _format_of.get(client, 0)
    for number in range(first, len(_FORMATS)):
        try:
            completion = client.chat.completions.create(model=model, temperature=0.0,
                                                        **_request(_FORMATS[number], messages, answer))
        except openai.APITimeoutError as error:
            raise LateAnswerError(f"the language model at {client.base_url} gave no answer within "
                                  f"{_seconds(client)}") from error
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            # Whether it is the form that the server does not like shows when another is taken.
            if number + 1 < len(_FORMATS):
                continue
            raise ServerError(f"the language model at {client.base_url} does not take the question: "
                              f"{str(error)[:_LONGEST_TOLD]}") from error
        except openai.OpenAIError as error:
            raise ServerError(f"the language model at {client.base_url} did not answer: "
                              f"{str(error)[:_LONGEST_TOLD]}") from error
        except json.JSONDecodeError as error:
            raise ServerError(f"what answers at {client.base_url} does not speak JSON ({error}); correct the URL, or "
                              "mend the server") from error
        choices = getattr(completion, "choices", None)
        if not choices or choices[0].message is None:
            raise ServerError(f"what answers at {client.base_url} does not speak the OpenAI protocol "
                              f"({str(completion)[:_LONGEST_TOLD]!r}); correct the URL, which mostly ends in /v1")
        _format_of[client] = number
        if choices[0].message.refusal:
            raise UnusableAnswerError(f"refused: {choices[0].message.refusal}")
        return choices[0].message.content or "", choices[0].finish_reason or ""
    raise AssertionError("the last format returns or raises")


def _request(form: str, messages: list[Message], answer: type[BaseModel]) -> dict[str, Any]:
    """Return messages, and response_format where there is one, that ask for an answer in a form."""
    schema = _strict(answer.model_json_schema())
    if form == "json_schema":
        named = {"name": answer.__name__.strip("_").lower(), "strict": True, "schema": schema}
        return {"messages": messages, "response_format": {"type": form, "json_schema": named}}
    told = f"Answer with one JSON object and nothing else, by this schema: {json.dumps(schema)}"
    head = {**messages[0], "content": f"{messages[0]['content']}\n{told}"} if messages[0]["role"] == "system" else {
        "role": "system", "content": told}
    asked = [head, *(messages[1:] if messages[0]["role"] == "system" else messages)]
    return {"messages": asked} | ({"response_format": {"type": form}} if form == "json_object" else {})


def _json_part(text: str) -> str:
    """Return the JSON object in what a model said, without its thoughts, fences and pleasantries."""
    text = text.rpartition("</think>")[2]
    found = re.search(r"\{.*\}", text, re.DOTALL)
    return found.group() if found else text


def _seconds(client: "openai.OpenAI") -> str:
    return f"{client.timeout:g} s" if isinstance(client.timeout, int | float) else "the client's time"


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema without what strict servers refuse: bounds of texts, titles, descriptions, defaults."""
    dropped = {"title", "description", "minLength", "default"}
    return {key: _strict(value) if isinstance(value, dict) else value for key, value in schema.items()
            if key not in dropped}
