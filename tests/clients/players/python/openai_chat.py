"""OpenAI chat completions with `openai`."""

import openai

OWN = openai.OpenAIError


def play(url, key, say):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    messages = [{"role": "user", "content": "count"}]
    for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
        say(chunk.to_json(indent=None))
