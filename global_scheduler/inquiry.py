"""An inquiry: the few fields of a generation request that routing needs, beside its untouched bytes.

Parses and checks; does not know instances. Everything else in the body is the instance's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from block.errors import RequestError

MAX_COUNT = 2**31 - 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] | Annotated[float, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""As vLLM takes it: 5.0 is 5."""
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_FIELD_IN_ERROR = re.compile(r"`\$\.(\w+)")
MAX_DECLARED_TOKENS = MAX_COUNT
MAX_SLO_MS = 86_400_000
_MILLISECONDS = re.compile(r"[0-9]{1,8}(\.[0-9]{1,6})?")
MAX_TEMPERATURE = 100.0


class _Body(msgspec.Struct, frozen=True):
    model: str | None = None
    prompt: msgspec.Raw = msgspec.Raw(b"")
    messages: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stream: bool | None = None
    n: _Count | None = None
    priority: Int64 | None = None
    user: msgspec.Raw = msgspec.Raw(b"")
    temperature: msgspec.Raw = msgspec.Raw(b"")


_BODY = msgspec.json.Decoder(_Body)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class Inquiry(msgspec.Struct, frozen=True):
    """One client request, as far as routing reads it."""

    id: str
    """Unique in the fleet."""
    chat: bool
    body: bytes
    """As it came."""
    model: str
    """Empty if the client named none."""
    prompt_json: bytes
    """The prompt, or the messages of a chat, as JSON."""
    tools_json: bytes
    max_tokens: int | None
    stream: bool
    priority: int
    policy: str | None = None
    """From the ``x-block-policy`` header; not checked yet."""
    declared_output_tokens: int | None = None
    """From the ``x-block-output-tokens`` header."""
    session: str = ""
    """From the ``x-block-session`` header, else the body's ``user``; empty if neither was given."""
    slo_ttft_s: float | None = None
    """From the ``x-block-slo-ttft-ms`` header."""
    slo_e2e_s: float | None = None
    """From the ``x-block-slo-e2e-ms`` header."""
    samples: int = 1
    """Responses to each prompt."""
    prompts: int = 1
    temperature: float | None = None
    """None if it is not given, or is nothing that sampling could use: the instance judges that."""


def read_inquiry(request_id: str, *, chat: bool, body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """Parse a body and the ``x-block-*`` headers. Raises RequestError (400) that names the field."""
    fields = _parse(body)
    prompt = bytes(fields.messages if chat else fields.prompt)
    _check_prompt(prompt[:1], chat=chat)
    inquiry = Inquiry(
        id=request_id,
        chat=chat,
        body=body,
        model=fields.model or "",
        prompt_json=prompt,
        tools_json=bytes(fields.tools) if chat else b"",
        max_tokens=_max_tokens(fields, chat=chat),
        stream=bool(fields.stream),
        priority=fields.priority or 0,
        session=session_of(bytes(fields.user)),
        samples=max(1, int(fields.n or 1)),
        prompts=1 if chat else _count_prompts(prompt),
        temperature=temperature_of(bytes(fields.temperature)),
    )
    return _wishing(inquiry, headers) if headers else inquiry


def _wishing(inquiry: Inquiry, headers: Mapping[str, str]) -> Inquiry:
    """With what the headers say."""
    return msgspec.structs.replace(
        inquiry,
        policy=headers.get("x-block-policy"),
        declared_output_tokens=_declared_tokens(headers.get("x-block-output-tokens")),
        session=headers.get("x-block-session") or inquiry.session,
        slo_ttft_s=_slo_s("x-block-slo-ttft-ms", headers),
        slo_e2e_s=_slo_s("x-block-slo-e2e-ms", headers),
    )


def _parse(body: bytes) -> _Body:
    try:
        body.decode("utf-8")  # the parser below skips over unread strings without looking
        return _BODY.decode(body)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 (byte {error.start})") from error
    except msgspec.ValidationError as error:
        field = _FIELD_IN_ERROR.search(str(error))
        raise RequestError(str(error), param=field.group(1) if field else None) from error
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply") from error


def _max_tokens(fields: _Body, *, chat: bool) -> int | None:
    """A completion may ask for none at all: its prompt's log probabilities, with ``echo``."""
    if not chat:
        return _whole("max_tokens", fields.max_tokens, 0)
    if fields.max_completion_tokens is not None:
        return _whole("max_completion_tokens", fields.max_completion_tokens, 1)
    return _whole("max_tokens", fields.max_tokens, 1)


def _whole(field: str, value: float | None, least: int) -> int | None:
    if value is None:
        return None
    if value < least or value != int(value):
        raise RequestError(f"{field}: must be a whole number from {least}, not {value}", param=field)
    return int(value)


def _check_prompt(first_byte: bytes, *, chat: bool) -> None:
    if chat and first_byte != b"[":
        raise RequestError("messages: must be given, as a list", param="messages")
    if not chat and first_byte not in (b"", b"n", b'"', b"["):
        raise RequestError("prompt: must be a string or a list", param="prompt")


def _count_prompts(prompt_json: bytes) -> int:
    """A text or a list of token ids is one; a list of either is as many. The engine judges others."""
    if prompt_json[:1] != b"[" or prompt_json[1:].lstrip()[:1] not in (b'"', b"["):
        return 1
    return len(_LIST.decode(prompt_json))


def session_of(raw: bytes) -> str:
    """A body's ``user``. Whatever it is, equal ones are equal; its validity is the instance's business."""
    return "" if raw in (b"", b"null", b'""') else raw.decode()


def _slo_s(name: str, headers: Mapping[str, str]) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    if not _MILLISECONDS.fullmatch(text) or not 0 < (slo_ms := float(text)) <= MAX_SLO_MS:
        raise RequestError(
            f"{name}: must be milliseconds above 0 and up to {MAX_SLO_MS}, not {text[:32]!r}", param=name
        )
    return slo_ms / 1000


def temperature_of(raw: bytes) -> float | None:
    """A body's ``temperature``, if it is one."""
    if not raw:
        return None
    try:
        given = float(raw)
    except ValueError:
        return None
    return given if 0 <= given <= MAX_TEMPERATURE else None


def _declared_tokens(header: str | None) -> int | None:
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and 1 <= len(header) <= 10):
        raise _bad_declaration(header)
    tokens = int(header)
    if not 1 <= tokens <= MAX_DECLARED_TOKENS:
        raise _bad_declaration(header)
    return tokens


def _bad_declaration(header: str) -> RequestError:
    return RequestError(
        f"x-block-output-tokens: must be a whole number from 1 to {MAX_DECLARED_TOKENS}, not {header[:32]!r}",
        param="x-block-output-tokens",
    )
