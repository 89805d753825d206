"""The reference describes every key, and the schema says what the loader does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from docs.generate.configuration import json_schema, keys
from sse_keepalive_proxy.config.reading.document import read_document
from sse_keepalive_proxy.config.reading.tree import plain
from sse_keepalive_proxy.config.sections.settings import Route, Settings
from tests.config.writing import VALID

ROOT = Path(__file__).parents[2]


def _every_section(section: Any = Settings) -> list[Any]:
    below = [key.section for key in keys(section) if key.section is not None]
    return [section, *(deeper for inner in below for deeper in _every_section(inner))]


@pytest.mark.parametrize("section", dict.fromkeys(_every_section()), ids=lambda section: section.__name__)
def test_every_key_is_described_in_one_to_three_sentences(section: Any) -> None:
    for key in keys(section):
        assert re.fullmatch(r"(?s)[A-Z`].*\.", key.description), key.name
        assert 1 <= len(re.findall(r"\.(?:\s|$)", key.description.replace("e.g. ", ""))) <= 3, key.name


def test_a_section_that_is_off_by_default_shows_what_its_keys_default_to() -> None:
    stream = next(key.section for key in keys(Route) if key.name == "stream")
    assert stream is not None
    identity = next(key for key in keys(stream) if key.name == "identity")
    assert identity.default == "off"
    assert identity.section is not None
    defaults = {key.name: key.default for key in keys(identity.section)}
    assert (defaults["from"], defaults["verify"], defaults["audience"]) == (
        "query:access_token",
        "jwt",
        "off",
    )
    cors = next(key for key in keys(Route) if key.name == "cors")
    assert cors.default == "off"
    assert json_schema()["$defs"]["Stream"]["properties"]["identity"]["default"] == "off"


def test_the_schema_accepts_what_the_loader_accepts() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for text in (
        VALID,
        (ROOT / "config.example.yaml").read_text(encoding="utf-8"),
        "listen: [':1']\nadmin: off\nwatch: false\n" + VALID,
        VALID + "      identity: {from: 'query:t', verify: upstream, algorithms: [ES256], audience: off}\n",
        VALID
        + "      reconnect: {when: off, on_status: [500], first_within: off}\n    cors: {origins: ['*']}\n",
    ):
        assert list(validator.iter_errors(_bare(text))) == []


@pytest.mark.parametrize(
    "line",
    [
        "kepalive: off",
        "keepalive: {interval: 15}",
        "max_event: 1MB",
        "head: no",
        "open_timeout: off",
        "reconnect: {on_status: [200]}",
        "identity: {source: 'query:t'}",
        "identity: {algorithms: [HS256]}",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(line: str) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    assert list(validator.iter_errors(_bare(f"{VALID}      {line}\n")))


def test_the_schema_lets_variables_stand_where_numbers_do() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    document = {
        **_bare(VALID),
        "limits": {"max_streams": "${N}"},
        "logging": {"level": "${L}", "access": "${A}"},
    }
    assert list(validator.iter_errors(document)) == []


def _bare(text: str) -> Any:
    root, problems = read_document(text.encode(), file="config.yaml", environ={})
    assert problems == []
    return plain(root)
