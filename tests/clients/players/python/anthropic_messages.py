"""Anthropic messages with `anthropic`."""

import anthropic

OWN = anthropic.AnthropicError


def play(url, key, say):
    client = anthropic.Anthropic(base_url=url, api_key=key)
    messages = [{"role": "user", "content": "count"}]
    for event in client.messages.create(model="m", max_tokens=9, messages=messages, stream=True):
        say(event.to_json(indent=None))
