"""The paths that are passed on to instances, and how each one's body is read.

What is not here is not passed on: administration of an engine, and what one instance keeps for later
(stored responses), must not go to an instance by chance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from block.errors import RequestError
from global_scheduler.inquiry import Inquiry, Int64, read_inquiry, session_of, temperature_of

Reader = Callable[[str, bytes, Mapping[str, str]], Inquiry]
"""Request id, body and headers in; raises RequestError (400)."""

_MODEL_IN_FORM = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,256})\r\n')


class _Fields(msgspec.Struct, frozen=True):
    model: str | None = None
    stream: bool | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    messages: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")
    system: msgspec.Raw = msgspec.Raw(b"")
    max_output_tokens: int | None = None
    max_tokens: int | None = None
    priority: Int64 | None = None
    user: msgspec.Raw = msgspec.Raw(b"")
    temperature: msgspec.Raw = msgspec.Raw(b"")


_FIELDS = msgspec.json.Decoder(_Fields)


def _read_generation(chat: bool, id_: str, body: bytes, headers: Mapping[str, str]) -> Inquiry:
    return read_inquiry(id_, chat=chat, body=body, headers=headers)


def _read_conversation(id_: str, body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """OpenAI's responses and Anthropic's messages: generation by other names.

    What stands before the conversation, ``instructions`` or ``system``, weighs as tools do: by its size.
    """
    fields = _fields(body)
    limit = fields.max_output_tokens or fields.max_tokens
    return _inquiry(
        id_,
        body,
        headers,
        chat=True,
        model=fields.model or "",
        prompt_json=bytes(fields.input or fields.messages),
        tools_json=b"".join(map(bytes, (fields.instructions, fields.system, fields.tools))),
        max_tokens=max(1, limit) if limit is not None else None,
        stream=bool(fields.stream),
        priority=fields.priority or 0,
        user=bytes(fields.user),
        temperature=temperature_of(bytes(fields.temperature)),
    )


def _read_input(id_: str, body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """What is computed in one go: no response grows, so none is estimated."""
    fields = _fields(body)
    return _inquiry(
        id_,
        body,
        headers,
        model=fields.model or "",
        prompt_json=body,
        priority=fields.priority or 0,
        user=bytes(fields.user),
    )


def _read_form(id_: str, body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """Files in a form; what they are worth in tokens, only the model knows."""
    model = _MODEL_IN_FORM.search(body)
    name = model.group(1).decode("utf-8", "replace") if model else ""
    return _inquiry(id_, body, headers, model=name)


ENDPOINTS: Mapping[bytes, Reader] = {
    b"/v1/chat/completions": partial(_read_generation, True),
    b"/v1/completions": partial(_read_generation, False),
    b"/v1/responses": _read_conversation,
    b"/v1/messages": _read_conversation,
    b"/v1/audio/transcriptions": _read_form,
    b"/v1/audio/translations": _read_form,
    **dict.fromkeys(
        (
            b"/v1/embeddings",
            b"/v2/embed",
            b"/v1/messages/count_tokens",
            b"/v1/rerank",
            b"/v2/rerank",
            b"/rerank",
            b"/v1/score",
            b"/score",
            b"/classify",
            b"/pooling",
            b"/tokenize",
            b"/detokenize",
        ),
        _read_input,
    ),
}

BESIDE_THE_ENGINE = frozenset({b"/tokenize", b"/detokenize", b"/v1/messages/count_tokens"})
"""What the API server answers by itself: no queue of an engine ever shows it."""

OPERATIONS: Mapping[bytes, str] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "text_completion",
    b"/v1/responses": "chat",
    b"/v1/messages": "chat",
    b"/v1/embeddings": "embeddings",
}
"""What OpenTelemetry calls some of them; the others go by the last part of their path."""


def operation_of(path: bytes) -> str:
    """``gen_ai.operation.name`` of an endpoint."""
    return OPERATIONS.get(path) or path.rpartition(b"/")[2].decode("latin-1")


def _fields(body: bytes) -> _Fields:
    try:
        body.decode("utf-8")
        return _FIELDS.decode(body)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 (byte {error.start})") from error
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not as this endpoint takes it: {error}") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply") from error


def _inquiry(
    id_: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    chat: bool = False,
    model: str = "",
    prompt_json: bytes = b"",
    tools_json: bytes = b"",
    max_tokens: int | None = 1,
    stream: bool = False,
    priority: int = 0,
    user: bytes = b"",
    temperature: float | None = None,
) -> Inquiry:
    """Everything else as a completion without a prompt has it, the ``x-block-*`` headers included."""
    plain = read_inquiry(id_, chat=False, body=b"{}", headers=headers)
    return msgspec.structs.replace(
        plain,
        body=body,
        chat=chat,
        model=model,
        prompt_json=prompt_json,
        tools_json=tools_json,
        max_tokens=max_tokens,
        stream=stream,
        priority=priority,
        session=plain.session or session_of(user),
        temperature=temperature,
    )
