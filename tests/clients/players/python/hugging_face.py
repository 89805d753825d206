"""Chat completions with `huggingface_hub`."""

from huggingface_hub import InferenceClient, errors

OWN = tuple(
    kind
    for name in ("HfHubHTTPError", "TextGenerationError", "BadRequestError")
    if (kind := getattr(errors, name, None)) is not None
)


def play(url, key, say):
    client = InferenceClient(base_url=f"{url}/v1", api_key=key)
    for chunk in client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "count"}], stream=True
    ):
        say(str(chunk))
