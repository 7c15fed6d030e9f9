"""A server on this machine that speaks the OpenAI protocol and answers what a test tells it to."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class LanguageServer:
    """answers: given one by one. A message (dict), text as a message's content, an HTTP status (int), seconds to sleep
    before anything is said (float), or the body itself (bytes). requests: what was asked. refused_formats: types of
    response_format that are answered with 400. models: those that the server says it has.
    """

    url: str
    answers: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    refused_formats: tuple[str, ...] = ()
    models: tuple[str, ...] = ("m",)

    def body(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Return the status and body of the answer to a request."""
        self.requests.append(request)
        form = request.get("response_format", {}).get("type")
        if form in self.refused_formats:
            return 400, json.dumps({"error": {"message": f"response_format {form} is not supported"}}).encode()
        answer = self.answers.pop(0)
        if isinstance(answer, float):
            time.sleep(answer)
            answer = {"content": "too late"}
        if isinstance(answer, int):
            return answer, json.dumps({"error": {"message": "busy"}}).encode()
        if isinstance(answer, bytes):
            return 200, answer
        message = {"content": answer} if isinstance(answer, str) else dict(answer)
        ended = message.pop("finish_reason", "stop")
        return 200, json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [
            {"index": 0, "finish_reason": ended, "message": {"role": "assistant", **message}}]}).encode()


@contextmanager
def serving() -> Iterator[LanguageServer]:
    """Run a server in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in server.models]
            self.answer(200, json.dumps({"object": "list", "data": listed}).encode())

        def do_POST(self) -> None:
            self.answer(*server.body(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def answer(self, status: int, body: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                # Tells the client how long to wait before it tries again: no time.
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                pass  # who asked has gone

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = LanguageServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
