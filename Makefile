# `make check` is what CI runs: lint, types, generated files and tests are all tests.

.PHONY: check demo docs format

check:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest

demo:
	python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/sse-keepalive-proxy demo

format:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs:
	.venv/bin/python -m sse_keepalive_proxy.config.reference
	.venv/bin/python -m sse_keepalive_proxy.observe.reference
	.venv/bin/python -m sse_keepalive_proxy.cli.reference
