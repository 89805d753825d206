"""`healthcheck`: 0 for a proxy that lives, 1 and one line for anything else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_keepalive_proxy.cli import healthcheck, main
from sse_keepalive_proxy.config import Admin
from tests.support.programs import free_port
from tests.support.proxy_process import running_proxy


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives one client this answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def test_a_running_proxy_is_healthy_and_a_stopped_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_proxy(tmp_path, upstream="http://127.0.0.1:1") as proxy:
        assert main(["healthcheck", "--url", f"{proxy.admin_url}/livez"]) == 0
        assert main(["healthcheck", "--url", f"{proxy.admin_url}/readyz"]) == 0
        assert capsys.readouterr() == ("", "")
        assert main(["healthcheck", "--url", f"{proxy.admin_url}/nothing"]) == 1
        assert capsys.readouterr() == ("", f"healthcheck: {proxy.admin_url}/nothing: Not Found\n")
    assert main(["healthcheck", "--url", f"{proxy.admin_url}/livez"]) == 1
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "url"),
    [
        (None, "http://127.0.0.1:9090/livez"),
        ("", "http://127.0.0.1:9090/livez"),
        ("off", None),
        ("127.0.0.1", "http://127.0.0.1:9090/livez"),
        ("127.0.0.1:port", "http://127.0.0.1:9090/livez"),
        ("[::1:9191", "http://127.0.0.1:9090/livez"),
        ("unix:/run/admin.sock", None),
        ("0.0.0.0:9191", "http://127.0.0.1:9191/livez"),
        (":9191", "http://127.0.0.1:9191/livez"),
        ("[::]:9191", "http://[::1]:9191/livez"),
        ("10.1.2.3:9191", "http://10.1.2.3:9191/livez"),
    ],
)
def test_it_asks_the_admin_listener_where_it_is_by_default_or_by_the_environment(
    said: str | None, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        monkeypatch.setenv("SSE_KEEPALIVE_PROXY_ADMIN_LISTEN", said)
    assert healthcheck.default_url() == url


@pytest.mark.parametrize(
    ("admin", "said", "url"),
    [
        ("{listen: 127.0.0.1:9191}", None, "http://127.0.0.1:9191/livez"),
        ("{listen: 127.0.0.1:9191}", "", "http://127.0.0.1:9191/livez"),
        ("{listen: 127.0.0.1:9191}", "0.0.0.0:9090", "http://127.0.0.1:9090/livez"),
        ("off", "", None),
        ("no such thing", "", "http://127.0.0.1:9090/livez"),
    ],
)
def test_it_asks_where_the_configuration_puts_the_admin_listener(
    admin: str, said: str | None, url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"admin: {admin}\nupstreams: {{a: {{url: http://a}}}}\n"
        "routes: [{name: a, match: {path: /*}, upstream: a}]\n"
    )
    monkeypatch.setenv("SSE_KEEPALIVE_PROXY_CONFIG", str(file))
    if said is not None:
        monkeypatch.setenv("SSE_KEEPALIVE_PROXY_ADMIN_LISTEN", said)
    assert healthcheck.default_url() == url


def test_it_knows_where_the_admin_listener_is_by_default() -> None:
    assert healthcheck.default_url() == f"http://{Admin().listen}/livez"


def test_a_listener_that_is_off_is_not_healthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(healthcheck, "default_url", lambda: None)
    assert main(["healthcheck"]) == 1
    assert "give --url" in capsys.readouterr().err


def test_without_a_url_it_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_proxy(tmp_path, upstream="http://127.0.0.1:1") as proxy:
        monkeypatch.setenv("SSE_KEEPALIVE_PROXY_ADMIN_LISTEN", f"0.0.0.0:{proxy.admin_port}")
        assert main(["healthcheck"]) == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"",
    ],
    ids=["503", "204", "another protocol", "TLS", "nothing"],
)
def test_any_other_answer_is_one_line_and_exits_1(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(answer) as url:
        assert main(["healthcheck", "--url", f"{url}/livez"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"healthcheck: {url}/livez: ")
    assert err.count("\n") == 1


def test_a_proxy_that_does_not_answer_in_time_is_not_healthy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/livez"
        assert main(["healthcheck", "--url", url]) == 1
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:9090/livez", "file:///etc/hostname", "ftp://127.0.0.1/", ""])
def test_a_url_that_is_not_http_is_not_requested(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["healthcheck", "--url", url]) == 1
    assert capsys.readouterr().err == f"healthcheck: not an http URL: {url}\n"


def test_a_url_that_makes_no_sense_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("http://127.0.0.1:port/", "http://[::1/", "http:///livez", "http://127.0.0.1:1/a b"):
        assert main(["healthcheck", "--url", url]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_proxy_of_the_environment_is_not_asked_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url:
        assert main(["healthcheck", "--url", url]) == 0
