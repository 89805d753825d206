"""Shared by every command: the exit codes, and the type of the parser's commands."""

from __future__ import annotations

import argparse

__all__ = ["CONFIGURATION", "FAILED", "OK", "USAGE", "Commands"]

OK = 0
FAILED = 1
USAGE = 2
CONFIGURATION = 78
"""Exit code for a configuration error (EX_CONFIG of sysexits.h)."""

Commands = argparse._SubParsersAction  # noqa: SLF001 (argparse gives the type no other name)
