"""Gemini with `google-genai`."""

from google import genai
from google.genai import errors

OWN = errors.APIError


def play(url, key, say):
    client = genai.Client(api_key=key, http_options={"base_url": url})
    for chunk in client.models.generate_content_stream(model="m", contents="count"):
        say(chunk.model_dump_json(exclude={"sdk_http_response"}, exclude_none=True))
