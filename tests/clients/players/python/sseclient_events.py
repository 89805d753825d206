"""Events with `sseclient`. It connects again whenever the stream ends."""

import requests
import sseclient

OWN = requests.RequestException


def play(url, key, say):
    for event in sseclient.SSEClient(url, params={"access_token": key}):
        say([event.event, event.data, event.id])
        if event.data == "done":
            break
