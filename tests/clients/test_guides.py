"""The configurations of the guides are valid without a warning, and serve what they are for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sse_keepalive_proxy.config.reading.load import load
from tests.support.http1 import chunk, stream_head
from tests.support.looping import run
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def configurations(name: str) -> list[str]:
    """The configurations of a guide."""
    text = (GUIDES / name).read_text(encoding="utf-8")
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


MODEL = configurations("language-models.md")[0]
STREAMABLE, OLD = configurations("mcp.md")
MESSAGE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}'


@pytest.mark.parametrize(
    ("config", "target", "header", "body"),
    [
        (MODEL, "/v1/chat/completions", "X-Stainless-Lang: python", b'{"stream": true}'),
        (STREAMABLE, "/mcp", "Accept: application/json, text/event-stream", MESSAGE),
        (STREAMABLE, "/mcp", "Mcp-Session-Id: 1", b""),
        (OLD, "/sse", "Accept: text/event-stream", b""),
    ],
    ids=["language models", "MCP, a call", "MCP, the server's own messages", "MCP, the old transport"],
)
def test_a_guides_configuration_serves_a_silent_stream(
    config: str, target: str, header: str, body: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "as-written.yaml"
    file.write_text(config)
    assert load(file, environ={}).warnings == ()

    async def story() -> None:
        async with RawUpstream([GOT_REQUEST, stream_head(), 0.2, chunk(b"data: 1\n\n")]) as upstream:
            there = re.sub(r"http://127\.0\.0\.1:\d+", upstream.url, config)
            with running_proxy(tmp_path, config=there) as proxy:
                async with await RawClient.connect(proxy.url) as client:
                    client.request(target, header, method="POST" if body else "GET", body=body)
                    await client.wait_for(b"data: 1\n\n", within=20)
                    assert client.response.status == 200
                    assert client.body == b":ok\ndata: 1\n\n"

    run(story(), within=90)
