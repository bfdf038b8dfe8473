"""What a vLLM server answers, as bytes to compare with."""

from __future__ import annotations

import json
from typing import Any

MODEL = "llama"
TOKENS = 5


def sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chat_chunks() -> list[bytes]:
    """What vLLM streams, an unknown field and a usage chunk included."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [choice],
                "prompt_token_ids": None,
            }
        )

    middle = [chunk({"content": f"tok{i} é "}) for i in range(TOKENS)]
    tail = [
        chunk({}, "stop"),
        sse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
            }
        ),
    ]
    return [chunk({"role": "assistant", "content": ""}), *middle, *tail, b"data: [DONE]\n\n"]


WHOLE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    ],
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "kv_transfer_params": None,
    },
    indent=1,  # bytes that no serializer would make by chance
).encode()

BAD_REQUEST = b'{"error": {"message": "the instance says no", "type": "BadRequestError", "code": 400}}'
ENGINE_ERROR = {
    "error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}
}
