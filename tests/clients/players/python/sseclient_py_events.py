"""Events with `sseclient-py` on top of `requests`."""

import requests
import sseclient

OWN = requests.RequestException


def play(url, key, say):
    headers = {"Accept": "text/event-stream"}
    answer = requests.get(url, params={"access_token": key}, headers=headers, stream=True, timeout=30)
    answer.raise_for_status()
    for event in sseclient.SSEClient(answer).events():
        say([event.event, event.data, event.id])
