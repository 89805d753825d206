"""The silent stand-in of notify-server as a program whose tokens outlive it, as those of the real server do:
`python -m tests.deploy.lasting_server PORT SECRET USER…`. All users are in one chat.
"""

from __future__ import annotations

import asyncio
import sys

from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.tokens import Hs256Tokens
from tests.support.stand_in import CHAT

__all__ = ["tokens_of"]


def tokens_of(secret: str) -> Hs256Tokens:
    """The tokens with this key, in hexadecimal."""
    tokens = Hs256Tokens()
    tokens._secret = bytes.fromhex(secret)
    return tokens


async def _serve(port: str, secret: str, *users: str) -> None:
    server = NotifyServer("silent", chats={CHAT: tuple(map(int, users))}, tokens=tokens_of(secret))
    await server.start(port=int(port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
