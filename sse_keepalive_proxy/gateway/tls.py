"""Build the TLS contexts of a configuration: one for clients, one for each upstream."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

from sse_keepalive_proxy import config
from sse_keepalive_proxy.config import Settings
from sse_keepalive_proxy.config.types.certificates import (
    client_context,
    client_faults,
    server_context,
    server_faults,
)
from sse_keepalive_proxy.config.types.fields import Fault
from sse_keepalive_proxy.errors import ConfigurationError, Problem
from sse_keepalive_proxy.http.dialer import UpstreamTls

__all__ = ["context_for_clients", "tls_of_upstreams"]


def context_for_clients(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for `tls`, or None if it is off. Raises `ConfigurationError`."""
    tls = settings.tls
    if tls is None:
        return None
    files = tls.cert_file, tls.key_file, tls.client_ca_file
    return _built("tls", lambda: server_context(*files), lambda: server_faults(*files))


def tls_of_upstreams(settings: Settings) -> dict[str, UpstreamTls]:
    """Return the TLS settings of each `https://` upstream, by name. Raises `ConfigurationError`."""
    found = {}
    for name, upstream in settings.upstreams.items():
        if upstream.address.scheme == "https":
            context = _context_for_upstream(f"upstreams.{name}.tls", upstream.tls)
            found[name] = UpstreamTls(context, upstream.tls.server_name)
    return found


def _context_for_upstream(path: str, tls: config.UpstreamTls) -> ssl.SSLContext:
    files = tls.ca_file, tls.client_cert
    return _built(path, lambda: client_context(*files), lambda: client_faults(*files))


def _built(
    path: str, build: Callable[[], ssl.SSLContext], faults: Callable[[], Iterable[tuple[str, Fault]]]
) -> ssl.SSLContext:
    """Return the result of `build`. Raises `ConfigurationError` if a file has become invalid."""
    try:
        return build()
    except OSError:  # `ssl.SSLError` is one
        problems = [Problem(fault.message, f"{path}.{key}", fault.hint) for key, fault in faults()]
        raise ConfigurationError(
            tuple(problems) or (Problem("a file changed while it was read", path, "reload"),)
        ) from None
