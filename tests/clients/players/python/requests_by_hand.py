"""Events with `requests`: the lines that begin with `data:`, as many scripts read them."""

import requests

OWN = requests.RequestException


def play(url, key, say):
    with requests.get(url, params={"access_token": key}, stream=True, timeout=30) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines(chunk_size=1):
            if line.startswith(b"data:"):
                say(line.decode())
