# `make check` is what CI runs: lint, types, generated files and tests are all tests.

.PHONY: bench check clients demo docs format lock

check:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest -n 2 --dist loadfile

demo:
	python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/sse-keepalive-proxy demo

# Takes about half an hour, measures the proxy compiled and interpreted, and writes docs/performance.md and
# docs/performance.png; needs gcc. Peers that are not installed are left out.
bench:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[bench]' && .venv/bin/python -m bench --install

# Takes about a quarter of an hour; needs npm, Go, Chromium and curl. Installs some seventy versions of client
# libraries in $XDG_CACHE_HOME, plays each directly and through the proxy, and writes docs/reference/clients.json and
# docs/reference/clients.md. A test holds every row to "as directly".
clients:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m tests.clients

format:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs:
	.venv/bin/python -m docs.generate
	.venv/bin/python -m tests.integration.outcomes > docs/reference/outcomes.md
	.venv/bin/python -m tests.integration.sharing_attacks > docs/reference/sharing-attacks.md
	.venv/bin/python -m tests.clients.page > docs/reference/clients.md

LOCK = .venv/bin/uv pip compile -q --generate-hashes --python-version 3.13 --python-platform linux --no-header --no-annotate
HEAD = "\# Written by \`make lock\`: every dependency of the container, with its hashes. Do not edit."

lock:
	.venv/bin/pip install -q uv
	(echo $(HEAD) && $(LOCK) --extra jwt --extra decode --extra nats pyproject.toml) > deploy/docker/runtime.lock
	(echo $(HEAD) && $(LOCK) --group build) > deploy/docker/build.lock
