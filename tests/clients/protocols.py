"""What servers of each protocol send: whole blocks, as their documentation has them."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

__all__ = ["Protocol", "blocks", "error_body", "error_frame"]


class Protocol(StrEnum):
    """A protocol, by the part of the path that it has at the scripted upstream."""

    PLAIN = "plain"  # events without ids
    IDS = "ids"
    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    GEMINI = "gemini"
    MISTRAL = "mistral"
    MCP = "mcp"
    MCP_SSE = "mcp-sse"

    @property
    def words(self) -> str:
        """The words for it on the page."""
        return _TITLES[self]


_TITLES = {
    Protocol.PLAIN: "events",
    Protocol.IDS: "events with ids",
    Protocol.CHAT: "OpenAI chat",
    Protocol.RESPONSES: "OpenAI responses",
    Protocol.MESSAGES: "Anthropic messages",
    Protocol.GEMINI: "Gemini",
    Protocol.MISTRAL: "Mistral",
    Protocol.MCP: "MCP streamable HTTP",
    Protocol.MCP_SSE: "MCP old SSE",
}
_WORDS = ("one", "two", "three")


def blocks(protocol: Protocol) -> list[bytes]:
    """The blocks of one whole stream, the last one included (`done`, `[DONE]`, `message_stop`)."""
    return _BLOCKS[protocol]


def error_body(protocol: Protocol, status: int) -> bytes:
    """The JSON body of a refusal, as servers of this protocol write it."""
    message = f"upstream says {status}"
    match protocol:
        case Protocol.GEMINI:
            word = "UNAUTHENTICATED" if status == 401 else "INTERNAL"
            return _json({"error": {"code": status, "message": message, "status": word}})
        case Protocol.MESSAGES:
            return _json({"type": "error", "error": {"type": "api_error", "message": message}})
        case _:
            return _json({"error": {"message": message, "type": "error", "param": None, "code": str(status)}})


def error_frame(protocol: Protocol) -> bytes:
    """An error inside the stream, as docs/reference/behaviour.md has it for each family."""
    message = "upstream says 500"
    if protocol is Protocol.GEMINI:
        failed = {"error": {"code": 500, "message": message, "status": "INTERNAL"}}
        return _json(failed) + b"\n\n" + _data(failed)
    if protocol in (Protocol.PLAIN, Protocol.IDS):
        return _named("proxy_error", {"type": "proxy_error", "status": 500, "message": message})
    error = {"type": "api_error", "code": "500", "message": message}
    told = {"type": "error", "error": error, "code": "500", "message": message}
    told |= {"param": None, "sequence_number": 0}
    return _data(told) + _named("error", told) + b":\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _data(value: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + _json(value) + end


def _named(name: str, value: Any) -> bytes:
    return f"event: {name}\n".encode() + _data(value)


def _chat() -> list[bytes]:
    def piece(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        common = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return _data({**common, "choices": [choice]})

    words = [piece({"role": "assistant", "content": word}) for word in _WORDS]
    return [*words, piece({}, "stop"), b"data: [DONE]\n\n"]


def _responses() -> list[bytes]:
    response = {
        "id": "r1", "object": "response", "created_at": 1, "model": "m", "status": "in_progress",
        "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "output": [], "usage": None,
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
    }  # fmt: skip
    part = {"type": "output_text", "text": "", "annotations": []}
    item = {"type": "message", "id": "i1", "status": "in_progress", "role": "assistant", "content": []}
    whole = {**part, "text": "".join(_WORDS)}
    done = {**item, "status": "completed", "content": [whole]}
    tokens = {"input_tokens": 1, "output_tokens": 3, "total_tokens": 4}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    ended = {**response, "status": "completed", "output": [done], "usage": {**tokens, **details}}
    at: dict[str, Any] = {"item_id": "i1", "output_index": 0, "content_index": 0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": response}),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.content_part.added", {**at, "part": part}),
        *(("response.output_text.delta", {**at, "delta": word, "logprobs": []}) for word in _WORDS),
        ("response.output_text.done", {**at, "text": whole["text"], "logprobs": []}),
        ("response.content_part.done", {**at, "part": whole}),
        ("response.output_item.done", {"output_index": 0, "item": done}),
        ("response.completed", {"response": ended}),
    ]
    return [
        _named(name, {"type": name, "sequence_number": number, **value})
        for number, (name, value) in enumerate(events)
    ]


def _messages() -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "m1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
        "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": message}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}})
            for word in _WORDS
        ),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}),
        ("message_stop", {}),
    ]
    return [_named(name, {"type": name, **value}) for name, value in events]


def _gemini() -> list[bytes]:
    def piece(word: str) -> bytes:
        candidate: dict[str, Any] = {"content": {"parts": [{"text": word}], "role": "model"}, "index": 0}
        if word == _WORDS[-1]:
            candidate["finishReason"] = "STOP"
        return _data({"candidates": [candidate], "modelVersion": "m"}, b"\r\n\r\n")

    return [piece(word) for word in _WORDS]


_PLAIN = [
    b"data: one\n\n",
    b"event: update\ndata: two\n\n",
    b"data: three\ndata: lines\n\n",
    b"data: done\n\n",
]
_BLOCKS = {
    Protocol.PLAIN: _PLAIN,
    Protocol.IDS: [f"id: {number}\n".encode() + block for number, block in enumerate(_PLAIN, 1)],
    Protocol.CHAT: _chat(),
    Protocol.RESPONSES: _responses(),
    Protocol.MESSAGES: _messages(),
    Protocol.GEMINI: _gemini(),
    Protocol.MISTRAL: _chat(),
    Protocol.MCP: [],
    Protocol.MCP_SSE: [],
}
