"""A NATS server whose accounts and users are tokens, and `bridge.credentials_file`."""

from __future__ import annotations

import base64
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nkeys
import pytest
from nats.aio.client import Client

from tests.integration.test_bridge_servers import SILENT, fills, stream
from tests.support.instance import Instance, config
from tests.support.nats import nats_server
from tests.support.raw_upstream import RawUpstream
from tests.support.running import on_each_loop

UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)


class Key:
    """A key of an operator, an account or a user."""

    def __init__(self, kind: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), kind))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.name = self._pair.public_key.decode()

    def token(self, of: Key, **claims: Any) -> str:
        """A token of `of`, signed with this key."""
        body = {"jti": "1", "iat": 1, "iss": self.name, "sub": of.name, "name": "x"}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {"version": 2, **claims}})
        text = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_encoded(self._pair.sign(text.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def credentials(token: str, seed: bytes) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The configuration of a server, and the credentials of its user."""
    operator, account = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT)
    user = Key(nkeys.PREFIX_BYTE_USER)
    of_account = operator.token(account, type="account", limits={**UNLIMITED, "wildcards": True})
    server, known = tmp_path / "nats.conf", tmp_path / "user.creds"
    server.write_text(
        f"operator: {operator.token(operator, type='operator')}\n"
        f"resolver: MEMORY\nresolver_preload: {{{account.name}: {of_account}}}\n"
    )
    token = account.token(user, type="user", subs=-1, data=-1, payload=-1, pub={}, sub={})
    known.write_text(credentials(token, user.seed))
    return server, known


@on_each_loop
async def test_a_server_that_wants_credentials_gets_them(files: tuple[Path, Path], tmp_path: Path) -> None:
    server, known = files
    with nats_server(tmp_path, None, "-c", str(server)) as (_, port):
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(RawUpstream(SILENT))
            more = f"  credentials_file: {known}"
            text = config(upstream, stream(f"nats://127.0.0.1:{port}", more=more))
            proxy = await stack.enter_async_context(Instance(text))
            client = Client()
            await client.connect(
                f"nats://127.0.0.1:{port}", user_credentials=str(known), allow_reconnect=False
            )
            stack.push_async_callback(client.close)
            await fills(stack, proxy, client)
