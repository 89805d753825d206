"""What both raw ends do with their sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import StrEnum

__all__ = ["Ending", "reset"]


class Ending(StrEnum):
    """How the peer ended its side of a connection."""

    EOF = "eof"  # FIN: closed, or only its writing half
    RESET = "reset"  # RST, or any other error of the connection
    SELF = "self"  # this side ended it first


def reset(transport: asyncio.Transport) -> None:
    """End a connection with RST (SO_LINGER of zero); what was not sent yet is lost."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
