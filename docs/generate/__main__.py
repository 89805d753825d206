"""Write every generated file: `python -m docs.generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.generate import cli, configuration, lifecycle, metrics

__all__ = ["FILES"]

_ROOT = Path(__file__).parents[2]

FILES: dict[Path, Callable[[], str]] = {
    _ROOT / "docs" / "design" / "lifecycle.md": lifecycle.markdown,
    _ROOT / "docs" / "reference" / "cli.md": cli.markdown,
    _ROOT / "docs" / "reference" / "configuration.md": configuration.markdown,
    _ROOT / "docs" / "reference" / "metrics.md": metrics.markdown,
    _ROOT / "sse_keepalive_proxy" / "config" / "schema.json": configuration.schema_file,
}

if __name__ == "__main__":
    for file, text in FILES.items():
        file.write_text(text(), encoding="utf-8")
