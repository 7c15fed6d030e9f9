"""What stands before every request: whose name the server is called by, whose page asks, and who knows the password.

    Host      A page of another site can make its own name point at this machine (DNS rebinding) and would then count
              as same-origin; but it cannot make the browser say another Host than its own name.
    Origin    What changes something is taken from our own page only (and from programs, which send no Origin).
    password  HTTP Basic: browsers send it along with videos and event streams, too.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alchemint.studio.refusal import RefusalError

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
                               "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WRONG_PASSWORD_S = 0.5
_MOST_GUESSES = 32
_HOST = re.compile(r"\[([0-9a-fA-F:.]+)\](?::\d{1,5})?|([A-Za-z0-9._-]+)(?::\d{1,5})?")


class Guard:
    """ASGI middleware: refuses what must not pass, and sets the headers that keep browsers from harm."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), password: str | None = None) -> None:
        """hosts: names by which the server may be called, besides localhost, this machine's own name and addresses."""
        self._app = app
        self._hosts = {host.lower() for host in (*hosts, "localhost", socket.gethostname())}
        self._password = None if password is None else _digest(password)
        self._guessing, self._num_guesses = asyncio.Lock(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith("/api/") else "no-cache")
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_host(headers.get("host", ""))
            if "\0" in scope["path"]:
                raise RefusalError(400, "the address has a null byte in it; correct it")
            if scope["method"] not in _SAFE_METHODS:
                _check_origin(headers)
            if not self._is_known(headers.get("authorization", "")):
                if headers.get("authorization"):
                    await self._slow_down()
                raise RefusalError(401, "a password is needed, any user name will do; the server's owner has it")
        except RefusalError as refused:
            response = refusal_response(refused)
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = 'Basic realm="alchemint studio", charset="UTF-8"'
            await response(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    async def _slow_down(self) -> None:
        """Let wrong passwords wait, one after the other, however many come at once."""
        if self._num_guesses >= _MOST_GUESSES:
            raise RefusalError(429, "too many wrong passwords are being tried; wait a moment")
        self._num_guesses += 1
        try:
            async with self._guessing:
                await asyncio.sleep(_WRONG_PASSWORD_S)
        finally:
            self._num_guesses -= 1

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        name = (found[1] or found[2]).lower().rstrip(".") if found else ""
        if not name or not (name in self._hosts or _is_address(name)):
            raise RefusalError(400, f"this server is not called {json.dumps(host[:100])}; open it by its address, or "
                                    "start it with --allow-host and that name")

    def _is_known(self, authorization: str) -> bool:
        if self._password is None:
            return True
        kind, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            given = ""
        return kind.lower() == "basic" and hmac.compare_digest(_digest(given), self._password)


def refusal_response(refused: RefusalError) -> JSONResponse:
    """Return the answer to a request that is refused."""
    return JSONResponse({"faults": list(refused.faults)}, refused.status)


def _check_origin(headers: Headers) -> None:
    """Refuse what another site's page sends; a program sends neither of these headers."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise RefusalError(400, f"a page of {json.dumps(origin[:100])} may not change anything here; use the studio's "
                                "own")
    if origin is None and site not in ("same-origin", "none"):
        raise RefusalError(400, "a page of another site may not change anything here; use the studio's own")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(text: str) -> bytes:
    """Return a hash, so that a comparison's time tells nothing of a password's length either."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
