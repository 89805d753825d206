"""The demo's nats-server: found, started on a port of its own, ended; and what is said without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sse_keepalive_proxy.demo import nats_server as module
from sse_keepalive_proxy.demo.nats_server import Missing, find, nats_server, require_extras
from tests.support.looping import in_loop
from tests.support.nats import publisher
from tests.support.programs import require


def program(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only nats-server that is found: a script."""
    file = folder / "nats-server"
    file.write_text(text)
    file.chmod(0o755)
    monkeypatch.setattr(module, "find", lambda: str(file))
    return file


@in_loop
async def test_each_has_a_port_of_its_own_and_ends_with_its_block() -> None:
    require("nats-server")
    async with nats_server() as one, nats_server() as other:
        assert one != other
        for port in (one, other):
            async with publisher(port) as client:
                await client.flush()
    for port in (one, other):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


def test_the_one_beside_this_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "nats-server"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))
    assert find() == str(file)


@pytest.mark.parametrize("name", ["jmespath", "jwt", "nats"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_extras()
    monkeypatch.setitem(module.sys.modules, name, None)
    with pytest.raises(Missing, match=r"two extras: pip install '\.\[jwt,nats\]'"):
        require_extras()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\nexit 3\n", "has ended with status 3"),
        ("#!/nowhere/sh\n", "cannot be started: No such file or directory"),
        ("#!/bin/sh\nexec sleep 60\n", "does not listen after 0 s"),
    ],
)
@in_loop
async def test_one_that_does_not_listen_is_missing(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = program(tmp_path, text, monkeypatch)
    monkeypatch.setattr(module, "_STARTS", 10.0 if "status" in why else 0.2)
    with pytest.raises(Missing) as missing:
        async with nats_server():
            pytest.fail("it does not listen")
    assert str(missing.value) == f"{file} {why}"


@in_loop
async def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = (
        "#!/bin/sh\ntrap '' TERM\n"
        'while [ "$1" != --ports_file_dir ]; do shift; done\n'
        'echo \'{"nats":["nats://127.0.0.1:4\' > "$2/x.ports"\n'
        'echo \'{"nats":["nats://127.0.0.1:4222"]}\' > "$2/x.ports"\n'
        "while :; do sleep 0.1; done\n"
    )
    program(tmp_path, stubborn, monkeypatch)
    monkeypatch.setattr(module, "_ENDS", 0.2)
    async with nats_server() as port:
        assert port == 4222
