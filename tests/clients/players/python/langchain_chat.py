"""OpenAI chat completions with `langchain-openai`."""

import openai
from langchain_openai import ChatOpenAI

OWN = openai.OpenAIError


def play(url, key, say):
    for chunk in ChatOpenAI(model="m", base_url=f"{url}/v1", api_key=key).stream("count"):
        say(f"{chunk.content} {chunk.response_metadata.get('finish_reason')}")
