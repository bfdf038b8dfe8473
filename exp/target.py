"""The server that a load goes to, and a request to it as it goes over the wire."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from block.errors import ConfigError

_PATHS: Mapping[str, str] = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI server, and the model that it is asked for."""

    host: str
    port: int
    model: str
    """As the server calls it."""
    path: str = "/v1"
    endpoint: str = "completions"
    """``chat`` or ``completions``."""
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request."""

    @classmethod
    def of(
        cls,
        base_url: str,
        model: str,
        endpoint: str = "completions",
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """From a base URL such as ``http://127.0.0.1:8000/v1``; raises ConfigError if it is none."""
        if endpoint not in _PATHS:
            raise ConfigError(f"endpoint {endpoint!r}: unknown; known here: {', '.join(_PATHS)}")
        try:
            parts = urlsplit(base_url)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (ValueError, KeyError):
            raise _no_url(base_url) from None
        if not parts.hostname:
            raise _no_url(base_url)
        return cls(
            parts.hostname,
            port,
            model,
            parts.path.rstrip("/"),
            endpoint,
            tls=parts.scheme == "https",
            headers=headers or {},
        )

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain HTTP."""
        return ssl.create_default_context() if self.tls else None

    def payload(self, prompt: str, output_tokens: int, headers: Mapping[str, str]) -> bytes:
        """A streaming request that is answered with exactly ``output_tokens``."""
        body = msgspec.json.encode(self._body(prompt, output_tokens))
        lines = {
            "Host": f"{self.host}:{self.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "x-block-output-tokens": str(output_tokens),
            **self.headers,
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.path}{_PATHS[self.endpoint]} HTTP/1.1\r\n{head}\r\n".encode() + body

    def _body(self, prompt: str, output_tokens: int) -> dict[str, Any]:
        asked = {"prompt": prompt} if self.endpoint == "completions" else {"messages": _messages(prompt)}
        return {
            "model": self.model,
            **asked,
            "max_tokens": output_tokens,
            # The recorded length, whatever the model would have said.
            "min_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            # How many tokens a message holds is not told otherwise.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _no_url(base_url: str) -> ConfigError:
    return ConfigError(
        f"URL {base_url!r}: must be http(s)://HOST:PORT/PATH, such as http://127.0.0.1:8000/v1"
    )
