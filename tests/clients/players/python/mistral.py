"""Mistral chat completions with `mistralai`."""

try:
    from mistralai import Mistral
    from mistralai import models as errors
except ImportError:  # from 2 on
    from mistralai.client import Mistral, errors

OWN = getattr(errors, "MistralError", None) or errors.SDKError


def play(url, key, say):
    client = Mistral(api_key=key, server_url=url)
    for event in client.chat.stream(model="m", messages=[{"role": "user", "content": "count"}]):
        say(event.data.model_dump_json())
