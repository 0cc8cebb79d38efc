"""A bad network on loopback: an HTTP proxy before the S3 server that answers late, not at all, or with an error, by a seeded draw."""

# ruff: noqa: S311 - seeded draws decide what goes wrong, nothing secret

from __future__ import annotations

import http.client
import itertools
import random
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy:
    """Passes requests on, or makes trouble.

    Args:
        upstream: host and port of the server.
        rates: how often what happens, of all requests: ``busy`` (503), ``broken`` (500), ``reset`` (connection reset before the server
            sees it), ``lost`` (the server does it, its answer is lost), ``slow`` (answers ``delay`` seconds late).
        delay: seconds.
        seed: of the draws.

    Attributes:
        happened: how often what did.
    """

    def __init__(self, upstream: tuple[str, int], rates: dict[str, float] | None = None, delay: float = 0.5, seed: int = 0) -> None:
        self.rates = rates or {}
        self.delay = delay
        self.happened: Counter[str] = Counter()
        self._upstream = upstream
        self._draws = random.Random(seed)
        self._lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def options(self) -> str:
        """What a storage URI says to go through it."""
        return f"endpoint_override=127.0.0.1:{self._port}&scheme=http"

    def start(self) -> None:
        """Listen, on the same port as before."""
        proxy = self

        class Handler(_Handler):
            def handle_request(self) -> None:
                proxy.handle(self)

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and reset those that there are."""
        self._server.shutdown()
        self._server.server_close()
        self._server.reset_all()

    def draw(self) -> str:
        """What happens to the next request."""
        with self._lock:
            place = self._draws.random()
            reached = itertools.accumulate(self.rates.values())
            what = next((what for what, end in zip(self.rates, reached, strict=True) if place < end), "passed")
            self.happened[what] += 1
            return what

    def handle(self, request: _Handler) -> None:
        """Answer one request."""
        body = request.body()
        what = self.draw()
        if what == "reset":
            request.reset()
            return
        if what in {"busy", "broken"}:
            request.answer(503 if what == "busy" else 500, [], BUSY if what == "busy" else b"")
            return
        if what == "slow":
            time.sleep(self.delay)
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
            connection.request(request.command, request.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            request.reset()
            return
        finally:
            connection.close()
        if what == "lost":
            request.reset()
        else:
            request.answer(answer.status, answer.getheaders(), content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news here."""

    def reset_all(self) -> None:
        for connection in self._connections:
            _reset(connection)


def _reset(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed already
        return


class _Handler(BaseHTTPRequestHandler, ABC):
    protocol_version = "HTTP/1.1"

    @abstractmethod
    def handle_request(self) -> None:
        """Answer, in whatever way."""

    def body(self) -> bytes:
        """All of it, be it sent in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        for name, value in headers:
            if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reset(self) -> None:
        self.close_connection = True
        _reset(self.connection)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = lambda self: self.handle_request()  # noqa: N815 - http.server's names


@contextmanager
def proxy_to(options: str, **how: Any) -> Iterator[Proxy]:
    """A proxy before the server that a storage URI's options name."""
    host, _, port = options.partition("endpoint_override=")[2].partition("&")[0].partition(":")
    proxy = Proxy((host, int(port)), **how)
    yield proxy
    proxy.stop()
