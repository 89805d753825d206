"""YAML: what is refused as a whole, how scalars are read, how variables are filled in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.config.reading.document import read_document
from sse_keepalive_proxy.config.reading.tree import plain
from sse_keepalive_proxy.errors import ConfigurationError
from tests.wire.effort import grows_no_faster_than_linear


def read(text: str | bytes, **environ: str) -> object:
    root, problems = read_document(
        text if isinstance(text, bytes) else text.encode(), file="config.yaml", environ=environ
    )
    assert problems == []
    return plain(root)


def problems_of(text: str | bytes, **environ: str) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    try:
        _, problems = read_document(content, file="config.yaml", environ=environ)
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),
        ("012", 12),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1e999", "1e999"),
        (".nan", ".nan"),
        ("2025-06-27", "2025-06-27"),
        ("", None),
        ("~", None),
        ("null", None),
        ("'15'", "15"),
        ('"true"', "true"),
        ("!!str 15", "15"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(scalar: str, value: object) -> None:
    assert read(f"key: {scalar}\n") == {"key": value}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "config.yaml: the file is empty (a configuration needs upstreams and routes)"),
        (
            b"# only a comment\n",
            "config.yaml: the file is empty (a configuration needs upstreams and routes)",
        ),
        (b"null\n", "config.yaml: the file is empty (a configuration needs upstreams and routes)"),
        (b"\n- a\n", "config.yaml:2: the top level must be a mapping (begin with a key such as listen:)"),
        (b"text\n", "config.yaml:1: the top level must be a mapping (begin with a key such as listen:)"),
        (b"a: 1\nb: \xff\n", "config.yaml:2: not UTF-8 text (save the file as UTF-8)"),
        (b"a: 1\nb: \0\n", "config.yaml:2: contains NUL (is this a text file?)"),
        (b"a: 1\nb: \x07\n", "config.yaml:2: contains a control character (remove it)"),
        (b"a: [1\nb: 2\n", "config.yaml:2: not valid YAML: expected ',' or ']', but got ':'"),
        (
            b"a:\n\t- 1\n",
            (
                "config.yaml:2: not valid YAML: found character '\\t' that cannot start any token"
                " (indent with spaces, not tabs)"
            ),
        ),
        (b'a: "\\U99999999"\n', "config.yaml: not valid YAML"),
        (b"a: 1\n---\nb: 2\n", "config.yaml:2: not valid YAML: but found another document"),
        (b"a: " + b"[" * 5000, "config.yaml: nested too deeply"),
        (b"#" * (4 << 20) + b"\n", "config.yaml: larger than 4MiB (is this the right file?)"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_one_problem(content: bytes, problem: str) -> None:
    assert problems_of(content) == [problem]


@pytest.mark.parametrize(
    ("value", "what"), [("*s3cret", "alias"), ("&a [*s3cret]", "alias"), ("!s3cret!x y", "tag handle")]
)
def test_what_looks_like_an_alias_or_a_tag_may_be_a_password_and_is_not_repeated(
    value: str, what: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(f"a: b\nc: {value}\n")
    (problem,) = caught.value.problems
    assert problem.message == f"not valid YAML: found undefined {what}"
    assert problem.hint == "a value that begins with *, & or ! needs quotes"


@pytest.mark.parametrize("piece", ["${A:-", "${A", "${", "$${", "${A}", "${A:-b}"])
def test_the_work_for_variables_grows_with_the_text(piece: str) -> None:
    assert grows_no_faster_than_linear(lambda count: problems_of(f"key: '{piece * count}'"), 2000)


def test_a_default_that_does_not_end_is_one_problem() -> None:
    assert problems_of("a: 1\nb: ${A:-x ${B:-y\n") == [
        "config.yaml:2: b: not a valid ${NAME} (write $${ for a literal ${)"
    ]


def test_a_byte_order_mark_is_not_part_of_the_first_key() -> None:
    assert read(b"\xef\xbb\xbfkey: 1\n") == {"key": 1}


def test_a_key_written_twice_is_refused_on_its_second_line() -> None:
    assert problems_of("a:\n  b: 1\n  c: 2\n  b: 3\n") == [
        "config.yaml:4: a.b: duplicate key (first written on line 2)"
    ]


def test_a_key_that_is_not_text_is_refused() -> None:
    assert problems_of("a:\n  [1, 2]: 3\n") == ["config.yaml:2: a: a key must be text"]


def test_tags_are_refused() -> None:
    problem = "config.yaml:1: a: YAML tags are not supported (write the value without !)"
    assert problems_of("a: !!python/object:os.system x\n") == [problem]
    assert problems_of("a: !custom {b: 1}\n") == [problem]


def test_merge_keys_are_refused_with_the_way_to_go() -> None:
    text = "a: &x {b: 1}\nc:\n  <<: *x\n"
    assert problems_of(text) == ["config.yaml:3: c.<<: merge keys are not supported (use `defaults` instead)"]


def test_an_alias_stands_for_its_anchor() -> None:
    assert read("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


def test_aliases_cannot_blow_up() -> None:
    lines = ["l0: &l0 [x]"] + [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    (problem,) = problems_of("\n".join(lines))
    assert "more than 200000 values (aliases count each time they are used)" in problem


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert problems_of("a: &a\n  b: *a\n") == [
        "config.yaml:2: nested too deeply (an alias cannot be inside its own anchor)"
    ]


def test_a_lone_surrogate_is_not_text() -> None:
    assert problems_of('a: "\\ud800"\n') == [
        "config.yaml:1: a: contains half a surrogate pair, which is not valid text"
    ]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("${NUMBER}", 15),
        ("'${NUMBER}'", "15"),
        ("${NUMBER}s", "15s"),
        ("${UNSET:-off}", "off"),
        ("${EMPTY:-given}", "given"),
        ("${EMPTY}", None),
        ("${UNSET:-}", None),
        ("http://${TEXT}:${NUMBER}/", "http://a b:15/"),
        ("$${NUMBER}", "${NUMBER}"),
        ("$NUMBER", "$NUMBER"),
        ("a$$b", "a$$b"),
        ("${STRUCTURE}", "{x: 1}\n- y: *z"),
        ("${AGAIN}", "${NUMBER}"),
    ],
)
def test_variables_are_filled_in_after_parsing(scalar: str, value: object) -> None:
    environ = {
        "NUMBER": "15",
        "TEXT": "a b",
        "EMPTY": "",
        "STRUCTURE": "{x: 1}\n- y: *z",
        "AGAIN": "${NUMBER}",
    }
    assert read(f"key: {scalar}\n", **environ) == {"key": value}


def test_an_unset_variable_without_a_default_is_an_error_with_its_line() -> None:
    assert problems_of("a: 1\nb: ${NOPE}\n") == [
        "config.yaml:2: b: the environment variable NOPE is not set (set it, or give a default: ${NOPE:-…})"
    ]


@pytest.mark.parametrize("scalar", ["${", "'${a b}'", "${1A}", "${A-b}", "${}"])
def test_an_invalid_variable_is_refused(scalar: str) -> None:
    (problem,) = problems_of(f"a: {scalar}\n")
    assert "not a valid ${NAME} (write $${ for a literal ${)" in problem


def test_keys_are_not_expanded() -> None:
    assert read("'${A}': 1\n", A="b") == {"${A}": 1}


@given(st.text())
def test_a_variable_never_becomes_structure(value: str) -> None:
    content = b"a: ${VALUE}\nb: 1\n"
    try:
        root, problems = read_document(content, file="config.yaml", environ={"VALUE": value})
    except ConfigurationError:
        pytest.fail("the value broke the document")
    assert set(root.keys) == {"a", "b"}
    assert problems or not isinstance(plain(root)["a"], dict | list)
