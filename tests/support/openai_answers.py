"""What a vLLM server answers, as bytes to compare with."""

from __future__ import annotations

import base64
import json
import struct
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

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1.0,
    "status": "completed",
    "model": MODEL,
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "a response", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


def response_events() -> list[bytes]:
    """What /v1/responses streams: events with names."""
    begun = {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "output": []}}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    delta = {"type": "response.output_text.delta", "sequence_number": 1, "delta": "a response", **place}
    ended = {"type": "response.completed", "sequence_number": 2, "response": RESPONSE}
    return [b"event: " + str(e["type"]).encode() + b"\n" + sse(e) for e in (begun, delta, ended)]


def embeddings(texts: list[str], *, packed: bool) -> dict[str, Any]:
    """Two numbers for each text, as a list or as bytes."""
    vectors = [[float(index), 0.5] for index in range(len(texts))]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack("<2f", *vector)).decode() if packed else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return {"object": "list", "data": data, "model": MODEL, "usage": usage}


BAD_REQUEST = b'{"error": {"message": "the instance says no", "type": "BadRequestError", "code": 400}}'
ENGINE_ERROR = {
    "error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}
}
