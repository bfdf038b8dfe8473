"""Pages are fetched with the key that they are asked for with, and with none without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from deploy.fleet.agent import fetch_pages


class _Guarded(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        admitted = self.path == "/open" or self.headers["authorization"] == "Bearer word-of-pass"
        self.send_response(200 if admitted else 401)
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def _served() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Guarded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_guarded_page_is_had_with_the_key_only() -> None:
    with _served() as url:
        both = {f"{url}/open": "", f"{url}/guarded": ""}
        assert fetch_pages(both) == {f"{url}/open": "page"}
        assert fetch_pages(both, "word-of-pass") == dict.fromkeys(both, "page")
