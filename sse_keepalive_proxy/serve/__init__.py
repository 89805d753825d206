"""Run one instance: bind, serve, reload, drain."""
