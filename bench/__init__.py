"""Measures this proxy beside nginx, HAProxy, Caddy, Envoy and a bare relay: `python -m bench`.

`machine` says what it runs on, `processes` runs what is measured, `peers` knows how each is started, `load`
drives the generator in `c/`. `comparison` has the tests that all take part in, `alone` those of this proxy
only. `figures` pairs and summarises, `report` and `plot` write it down. docs/performance.md tells what is
measured and how to read it.
"""
