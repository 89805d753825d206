"""Events with `launchdarkly-eventsource`."""

from ld_eventsource import SSEClient
from ld_eventsource.errors import HTTPContentTypeError, HTTPStatusError
from urllib3.exceptions import HTTPError

OWN = (HTTPStatusError, HTTPContentTypeError, HTTPError)


def play(url, key, say):
    with SSEClient(f"{url}?access_token={key}") as client:
        for event in client.events:
            say([event.event, event.data, event.id])
            if event.data == "done":
                break
