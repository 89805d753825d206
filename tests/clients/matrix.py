"""The matrix: client, version and protocol of every row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tests.clients.protocols import Protocol

__all__ = ["KNOWN", "ROWS", "Language", "Row"]


class Language(StrEnum):
    """What a client is written in: how it is installed and run."""

    PYTHON = "Python"
    NODE = "Node"
    GO = "Go"
    BROWSER = "browser"
    CURL = "program"


@dataclass(frozen=True, slots=True)
class Row:
    """One client in one version with one protocol.

    `requires` are the packages to install, the client's own first; `reconnects`: the client itself connects
    again when a stream ends, and leaves after the event `done`; `ci`: the row is part of the normal test run.
    """

    language: Language
    player: str
    requires: tuple[str, ...]
    protocol: Protocol
    reconnects: bool = False
    ci: bool = False

    @property
    def client(self) -> str:
        """Its name in the registry, and for Go its module."""
        return self._split[0]

    @property
    def version(self) -> str:
        """Its version; empty for a program that is used as it is installed."""
        return self._split[1]

    @property
    def title(self) -> str:
        """The name of the row, unique in the matrix."""
        words = (self.language, self.client, self.version, self.protocol, "POST" if self.post else "")
        return " ".join(filter(None, words))

    @property
    def post(self) -> bool:
        """Whether it asks for plain events by POST."""
        return self.player.endswith("_post")

    @property
    def _split(self) -> tuple[str, str]:
        name, _, version = self.requires[0].replace("==", "@").rpartition("@")
        return (name, version.removeprefix("v")) if name else (version, "")


def _python(player: str, *requires: str, of: Protocol, reconnects: bool = False, ci: bool = False) -> Row:
    return Row(Language.PYTHON, player, requires, of, reconnects, ci)


def _node(player: str, *requires: str, of: Protocol, reconnects: bool = False, ci: bool = False) -> Row:
    return Row(Language.NODE, player, requires, of, reconnects, ci)


P = Protocol
ROWS = (
    # Language models.
    _python("openai_chat", "openai==1.40.0", "httpx<0.28", of=P.CHAT, ci=True),
    _python("openai_chat", "openai==3.57.0", of=P.CHAT),
    _python("openai_responses", "openai==1.66.0", of=P.RESPONSES),
    _python("openai_responses", "openai==3.57.0", of=P.RESPONSES),
    _python("langchain_chat", "langchain-openai==1.7.4", of=P.CHAT),
    _python("litellm_chat", "litellm==1.110.2", of=P.CHAT),
    _python("hugging_face", "huggingface_hub==0.26.0", of=P.CHAT),
    _python("hugging_face", "huggingface_hub==2.4.0", of=P.CHAT),
    _python("anthropic_messages", "anthropic==0.30.1", "httpx<0.28", of=P.MESSAGES, ci=True),
    _python("anthropic_messages", "anthropic==2.14.0", of=P.MESSAGES),
    _python("langchain_anthropic_messages", "langchain-anthropic==1.7.10", of=P.MESSAGES),
    _python("gemini", "google-genai==1.10.0", of=P.GEMINI, ci=True),
    _python("gemini", "google-genai==3.6.1", of=P.GEMINI, ci=True),
    _python("mistral", "mistralai==1.2.0", of=P.MISTRAL),
    _python("mistral", "mistralai==3.7.0", of=P.MISTRAL),
    _node("openai_chat", "openai@4.20.1", of=P.CHAT),
    _node("openai_chat", "openai@4.104.0", of=P.CHAT),
    _node("openai_chat", "openai@7.59.0", of=P.CHAT, ci=True),
    _node("openai_responses", "openai@4.104.0", of=P.RESPONSES),
    _node("openai_responses", "openai@7.59.0", of=P.RESPONSES),
    _node("ai_chat", "ai@4.3.19", "@ai-sdk/openai@1.3.24", "zod@3", of=P.CHAT),
    _node("ai_chat", "ai@5.0.100", "@ai-sdk/openai@2.0.71", "zod@4", of=P.CHAT),
    _node("ai_chat", "ai@7.0.173", "@ai-sdk/openai@4.0.118", "zod@4", of=P.CHAT),
    _node("ai_messages", "ai@7.0.173", "@ai-sdk/anthropic@4.0.105", "zod@4", of=P.MESSAGES),
    _node("anthropic_messages", "@anthropic-ai/sdk@0.20.9", of=P.MESSAGES),
    _node("anthropic_messages", "@anthropic-ai/sdk@1.14.0", of=P.MESSAGES, ci=True),
    _node("gemini", "@google/genai@1.0.0", of=P.GEMINI),
    _node("gemini", "@google/genai@1.32.0", of=P.GEMINI, ci=True),
    _node("gemini", "@google/genai@3.3.0", of=P.GEMINI, ci=True),
    _node("generative_ai", "@google/generative-ai@0.24.1", of=P.GEMINI),
    Row(Language.GO, "gemini", ("google.golang.org/genai@v1.5.0",), P.GEMINI),
    Row(Language.GO, "gemini", ("google.golang.org/genai@v1.77.0",), P.GEMINI),
    _node("mistral", "@mistralai/mistralai@2.7.0", of=P.MISTRAL),
    Row(Language.GO, "openai_chat", ("github.com/openai/openai-go@v1.12.0",), P.CHAT, ci=True),
    Row(Language.GO, "openai_chat", ("github.com/openai/openai-go/v3@v3.42.0",), P.CHAT),
    Row(Language.GO, "openai_chat", ("github.com/openai/openai-go/v3@v3.99.0",), P.CHAT),
    # MCP.
    _python("mcp_streamable", "mcp==1.9.4", "pydantic<2.12", of=P.MCP, ci=True),
    _python("mcp_streamable", "mcp==2.3.0", of=P.MCP),
    _python("mcp_sse", "mcp==1.9.4", "pydantic<2.12", of=P.MCP_SSE),
    _python("mcp_sse", "mcp==2.3.0", of=P.MCP_SSE),
    _node("mcp_streamable", "@modelcontextprotocol/sdk@1.10.2", of=P.MCP),
    _node("mcp_streamable", "@modelcontextprotocol/sdk@1.32.2", of=P.MCP, ci=True),
    _node("mcp_sse", "@modelcontextprotocol/sdk@1.32.2", of=P.MCP_SSE),
    # Clients that connect again.
    _node("event_source", "eventsource@1.1.2", of=P.IDS, reconnects=True, ci=True),
    _node("event_source", "eventsource@2.0.2", of=P.IDS, reconnects=True),
    _node("event_source", "eventsource@3.0.7", of=P.IDS, reconnects=True),
    _node("event_source", "eventsource@4.1.0", of=P.IDS, reconnects=True),
    _node("event_source", "eventsource@5.1.5", of=P.IDS, reconnects=True),
    _node("event_source", "eventsource@5.1.5", of=P.PLAIN, reconnects=True),
    _node("undici_event_source", "undici@6.24.1", of=P.IDS, reconnects=True),
    _node("undici_event_source", "undici@8.13.1", of=P.IDS, reconnects=True),
    _node("event_source_polyfill", "event-source-polyfill@1.0.31", of=P.IDS, reconnects=True),
    _node("launchdarkly_events", "launchdarkly-eventsource@2.2.0", of=P.IDS, reconnects=True),
    _node("event_source_client", "eventsource-client@1.2.0", of=P.IDS, reconnects=True),
    _python("launchdarkly_events", "launchdarkly-eventsource==1.7.4", of=P.IDS, reconnects=True),
    _python("sseclient_events", "sseclient==0.0.27", of=P.IDS, reconnects=True, ci=True),
    _python("aiohttp_sse_events", "aiohttp-sse-client==0.2.1", of=P.IDS, reconnects=True),
    _python("aiohttp_sse_events", "aiohttp-sse-client2==0.3.0", of=P.IDS, reconnects=True),
    Row(Language.BROWSER, "chromium", ("Chromium",), P.PLAIN, reconnects=True),
    Row(Language.BROWSER, "chromium", ("Chromium",), P.IDS, reconnects=True, ci=True),
    # Clients that read one stream to its end.
    _python("httpx_sse_events", "httpx-sse==0.4.0", "httpx", of=P.IDS, ci=True),
    _python("httpx_sse_events", "httpx-sse==0.4.3", "httpx", of=P.PLAIN),
    _python("httpx_sse_events", "httpx-sse==0.4.3", "httpx", of=P.IDS, ci=True),
    _python("sseclient_py_events", "sseclient-py==1.9.0", "requests", of=P.IDS),
    _python("requests_by_hand", "requests==2.32.5", of=P.PLAIN),
    _node("fetch_with_parser", "eventsource-parser@1.1.2", of=P.IDS),
    _node("fetch_with_parser", "eventsource-parser@4.1.3", of=P.IDS),
    _node("fetch_event_source", "@microsoft/fetch-event-source@2.0.1", of=P.IDS, ci=True),
    _node("fetch_event_source_post", "@microsoft/fetch-event-source@2.0.1", of=P.PLAIN, ci=True),
    _node("event_source_plus", "event-source-plus@0.1.15", of=P.IDS),
    Row(Language.CURL, "curl", ("curl",), P.PLAIN, ci=True),
)

_VALIDATOR = (
    "The library knows no error inside a stream: {} hands every event, whatever its name, to the schema of a "
    "chunk. So its user sees the exception of a validator for whatever is not a chunk, directly, too."
)
KNOWN: dict[str, str] = {
    "Python mistralai 1.2.0 mistral: late": _VALIDATOR.format(
        "`_parse_event` in `mistralai/utils/eventstreaming.py`"
    ),
    "Node @mistralai/mistralai 2.7.0 mistral: late": _VALIDATOR.format(
        "`new EventStream` in `funcs/chatStream.js`"
    ),
    "Node @modelcontextprotocol/sdk 1.32.2 mcp-sse: aged": (
        "Directly, too, after a clean end and after a cut: `client/sse.js` opens its stream again and does "
        "not inform the call, which waits for its own timeout (60 s, `McpError`)."
    ),
}
"""Differences with a reason, by how their line on the page begins: the row's title, a colon, the scene."""
