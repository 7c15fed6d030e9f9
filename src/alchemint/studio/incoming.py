"""Bodies of requests: read within limits, and parsed strictly."""

import asyncio
import json
import re
from typing import Any

from starlette.requests import Request

from alchemint.studio.refusal import RefusalError

_SLOWEST_S = 120.0
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))')


def size_of(num_bytes: int) -> str:
    """Return a number of bytes as messages show it."""
    return f"{num_bytes / 2**20:.4g} MiB" if num_bytes >= 2**20 else f"{num_bytes} bytes"


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """Return a request's body; no more than `limit` bytes of it are ever kept.

    Raises RefusalError: 413 for a larger one, 400 for one that takes minutes. What is moderately too large is read to
    its end all the same, so that the browser gets to see the answer.
    """
    fault = f"{what} is larger than {size_of(limit)}, the most that is taken; make it smaller"
    declared = request.headers.get("content-length", "")
    too_large = declared.isdigit() and int(declared) > limit
    if too_large and int(declared) > 4 * limit:
        raise RefusalError(413, fault)
    kept, total = bytearray(), 0
    try:
        async with asyncio.timeout(_SLOWEST_S):
            async for chunk in request.stream():
                total += len(chunk)
                if total > 4 * limit:
                    break
                if total > limit or too_large:
                    too_large = True
                    kept.clear()
                else:
                    kept += chunk
    except TimeoutError:
        raise RefusalError(400, f"{what} took longer than {_SLOWEST_S:g} s to arrive; send it again") from None
    if too_large or total > limit:
        raise RefusalError(413, fault)
    return bytes(kept)


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the keys and values of a JSON document; RefusalError (400) for anything else, also NaN."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError as error:
        raise RefusalError(400, "the JSON is nested too deeply; make it flatter") from error
    except ValueError as error:
        raise RefusalError(400, f"the body is no JSON: {str(error).splitlines()[0][:200]}; correct it") from error
    if not isinstance(document, dict):
        raise RefusalError(400, f"the body is a JSON {_kind(document)}, but must be an object with keys and values")
    return document


def file_of(body: bytes, content_type: str) -> bytes:
    """Return the uploaded file: the body itself, or the part called "file" of a multipart form."""
    if not content_type.lower().startswith("multipart/form-data"):
        return body
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise RefusalError(400, "the multipart form has no boundary; send the file itself as the body")
    boundary = b"--" + (found[1] or found[2]).encode("latin-1")
    for part in (b"\r\n" + body).split(b"\r\n" + boundary)[1:]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if separator and re.search(rb'[;\s]name="file"', head):
            return content
    raise RefusalError(400, 'the multipart form has no part called "file"; call it so, or send the file as the body')


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that can be used; give a plain one such as 4.0")


def _kind(value: object) -> str:
    kinds = {list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return kinds.get(type(value), "null")
