"""OpenAI responses with `openai`."""

import openai

OWN = openai.OpenAIError


def play(url, key, say):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    for event in client.responses.create(model="m", input="count", stream=True):
        say(event.to_json(indent=None))
