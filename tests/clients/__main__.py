"""Play the matrix and write its results and its page: `python -m tests.clients [WORD...]`.

With words, only the rows whose title has one of them; the others keep the results that they have.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.clients import page
from tests.clients.install import InstallError
from tests.clients.matrix import ROWS, Row
from tests.clients.play import play
from tests.clients.results import Result, load, result_of, save

_AT_A_TIME = 2


async def results(rows: Sequence[Row]) -> dict[str, Result]:
    """The results of rows by their titles; a row that cannot be installed has none."""
    room, found = asyncio.Semaphore(_AT_A_TIME), {}

    async def one(row: Row) -> None:
        async with room:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found[row.title] = result = result_of(await play(row, Path(folder)))
                except InstallError as error:
                    sys.stderr.write(f"{row.title}: {error}\n")
                else:
                    sys.stderr.write(f"{row.title}: {'; '.join(result.differs) or 'well'}\n")

    await asyncio.gather(*map(one, rows))
    return found


def main(words: Sequence[str]) -> int:
    """Play, write, and return 1 where a row has no result."""
    known = {result.title: result for result in load()}
    chosen = [row for row in ROWS if not words or any(word in row.title for word in words)]
    known |= asyncio.run(results(chosen))
    save([known[row.title] for row in ROWS if row.title in known])
    page.FILE.write_text(page.markdown(load()), encoding="utf-8")
    return 0 if all(row.title in known for row in chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
