"""Connections to upstream."""
