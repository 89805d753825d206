"""`tls` in a configuration: every bad file with its line, what makes no sense, and what is hardly meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.writing import VALID, loaded, refused, said
from tests.support.authority import Authority

HTTPS = VALID.replace("{url: http://notify:6687}", "\n    url: https://notify:6687\n    tls: {TLS}")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def upstream_problems(tls: str, url: str = "https://notify:6687") -> list[str]:
    """What is said of a configuration whose upstream has this `tls`."""
    return said(refused(HTTPS.replace("TLS", tls).replace("https://notify:6687", url)))


def test_a_certificate_that_can_be_used_is_valid_and_gives_no_warning(authority: Authority) -> None:
    server = authority.certificate("server", "localhost")
    configured = loaded(f"tls: {{cert_file: {server}, key_file: {server}}}\n{VALID}")
    assert configured.warnings == ()
    assert configured.settings.tls is not None
    assert configured.settings.tls.client_ca_file is None
    assert loaded(f"tls: off\n{VALID}").settings.tls is None


def test_every_bad_file_of_every_tls_is_found_at_once_with_its_line(
    tmp_path: Path, authority: Authority
) -> None:
    text = f"tls:\n  cert_file: /nowhere.pem\n  key_file: {authority.file}\n  client_ca_file: {tmp_path}\n"
    text += HTTPS.replace("TLS", "ca_file: /none.pem, client_cert: /none.pem")
    missing = "there is no such file (a relative path starts at the proxy's working directory)"
    assert said(refused(text)) == [
        f":2: tls.cert_file: {missing}",
        ":3: tls.key_file: contains a certificate and no private key (write the private key here, as PEM)",
        ":4: tls.client_ca_file: is a directory, not a file",
        f":8: upstreams.notify.tls.ca_file: {missing}",
        f":8: upstreams.notify.tls.client_cert: {missing}",
    ]


def test_an_expired_certificate_is_a_warning(authority: Authority) -> None:
    server = authority.certificate("server", "localhost", valid=(-2, -1))
    mine = authority.certificate("mine", valid=(-2, -1))
    text = f"tls: {{cert_file: {server}, key_file: {server}}}\n" + HTTPS.replace(
        "TLS", f"client_cert: {mine}"
    )
    expired = "the certificate has expired (renew it: its peers refuse it)"
    assert said(loaded(text).warnings) == [
        f":1: warning: tls.cert_file: {expired}",
        f":5: warning: upstreams.notify.tls.client_cert: {expired}",
    ]


@pytest.mark.parametrize("key", ["insecure", "verify", "insecure_skip_verify"])
def test_a_server_is_always_verified_and_the_hint_says_how_to_do_it_right(key: str) -> None:
    (problem,) = upstream_problems(f"{key}: true")
    assert problem.startswith(
        f":4: upstreams.notify.tls.{key}: is not a key: a server that is not verified can be "
    )
    assert "ca_file" in problem


@pytest.mark.parametrize("url", ["http://notify:6687", "unix:/run/notify"])
def test_tls_of_an_upstream_that_is_asked_without_it_is_an_error(url: str, authority: Authority) -> None:
    assert upstream_problems(f"ca_file: {authority.file}, server_name: notify", url) == [
        f":4: upstreams.notify.tls.{key}: this upstream does not use TLS "
        "(write an https:// url, or remove this key)"
        for key in ("ca_file", "server_name")
    ]


@pytest.mark.parametrize("tls", ["", "{}", "{ca_file: null, server_name: null, client_cert: null}"])
def test_an_empty_tls_is_every_default_whatever_the_url(tls: str) -> None:
    assert loaded(VALID.replace("6687}", f"6687, tls: {tls}}}")).warnings == ()


@pytest.mark.parametrize("name", ["'*.example.com'", "https://notify", "notify:443", "''"])
def test_a_server_name_is_one_host(name: str) -> None:
    (problem,) = upstream_problems(f"server_name: {name}")
    assert problem.startswith(":4: upstreams.notify.tls.server_name: ")


def test_a_certificate_that_no_listener_uses_is_a_warning(authority: Authority) -> None:
    server = authority.certificate("server", "localhost")
    tls = f"tls: {{cert_file: {server}, key_file: {server}}}\n"
    (warning,) = said(loaded(f"listen: unix:/run/proxy\n{tls}{VALID}").warnings)
    assert warning == ":2: warning: tls: never used: `listen` has only Unix sockets, which use plain HTTP"
    assert loaded(f"listen: ['unix:/run/proxy', ':8443']\n{tls}{VALID}").warnings == ()


def test_nothing_of_what_is_in_a_file_is_said(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\nhunter2\n")
    problems = said(refused(f"tls: {{cert_file: {file}, key_file: {file}}}\n{VALID}"))
    assert problems
    assert not any("c2VjcmV0" in problem or "hunter2" in problem for problem in problems)
