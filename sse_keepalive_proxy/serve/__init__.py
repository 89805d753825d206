"""Bind, serve, drain."""
