"""Play several streams with the EventSource of a headless Chromium.

Arguments and output are those of `python/driver.py`. A browser has at most six connections to one host, so
five streams are played at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin

from tests.support.browser import browsing

_SCRIPT = """
globalThis.lines = []
globalThis.over = false
const say = (name, kind, value = null) => lines.push([name, kind, value])
const play = ([name, url]) => new Promise((resolve) => {
  const source = new EventSource(`${url}?access_token=key-${name}`)
  const end = (kind, value) => {
    clearTimeout(hang)
    source.close()
    if (kind) say(name, kind, value)
    resolve()
  }
  const hang = setTimeout(() => end(), SECONDS * 1000)
  const heard = ({ type, data, lastEventId }) => {
    say(name, 'event', [type, data, lastEventId])
    if (data === 'done') end('end')
  }
  source.onmessage = heard
  source.addEventListener('update', heard)
  const closed = { kind: 'Closed', text: 'closed', own: true }
  source.onerror = () => source.readyState === 2 && end('error', closed)
})
const waiting = GIVEN
const worker = async () => { while (waiting.length) await play(waiting.shift()) }
Promise.all(Array.from({ length: 5 }, worker)).then(() => { over = true })
true
"""


async def main(given: Sequence[str], seconds: float) -> None:
    """Play `NAME=URL` arguments, each for at most `seconds`."""
    streams = [text.split("=", 1) for text in given]
    page = urljoin(streams[0][1], "/page")
    script = _SCRIPT.replace("SECONDS", str(seconds)).replace("GIVEN", json.dumps(streams))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with browsing(Path(folder)) as tab:
            await tab.call("Page.navigate", url=page)
            await tab.until(page, "document.readyState === 'complete'")
            await tab.ask(page, script)
            await tab.until(page, "over", within=seconds * 3)
            for line in await tab.ask(page, "lines"):
                sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:], float(os.environ.get("PLAY_SECONDS", "20"))))
