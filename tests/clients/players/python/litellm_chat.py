"""OpenAI chat completions with `litellm`."""

import litellm
import openai

OWN = openai.OpenAIError
litellm.suppress_debug_info = True


def play(url, key, say):
    answer = litellm.completion(
        model="openai/m",
        api_base=f"{url}/v1",
        api_key=key,
        messages=[{"role": "user", "content": "count"}],
        stream=True,
    )
    for chunk in answer:
        choice = chunk.choices[0]
        say(f"{choice.delta.content} {choice.finish_reason}")
