"""Events with `httpx-sse`."""

import httpx
import httpx_sse

OWN = (httpx.HTTPError, httpx_sse.SSEError)


def play(url, key, say):
    with (
        httpx.Client(params={"access_token": key}, timeout=30) as client,
        httpx_sse.connect_sse(client, "GET", url) as source,
    ):
        source.response.raise_for_status()
        for event in source.iter_sse():
            say([event.event, event.data, event.id])
