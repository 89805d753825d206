"""Anthropic messages with `langchain-anthropic`."""

import anthropic
from langchain_anthropic import ChatAnthropic

OWN = anthropic.AnthropicError


def play(url, key, say):
    for chunk in ChatAnthropic(model="m", base_url=url, api_key=key).stream("count"):
        say(f"{chunk.text if isinstance(chunk.text, str) else chunk.text()} {chunk.response_metadata}")
