"""Play several streams at the same time with `curl`: the lines that it prints are the events.

Arguments and output are those of `python/driver.py`. Comment lines are left out, as a person's eye does it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence

_lock = threading.Lock()


def say(name: str, kind: str, value: object = None) -> None:
    with _lock:
        sys.stdout.write(json.dumps([name, kind, value]) + "\n")
        sys.stdout.flush()


def play(name: str, url: str) -> None:
    command = ["curl", "--silent", "--show-error", "--fail", "--no-buffer", "--max-time", "20", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line and not line.startswith(":"):
            say(name, "event", line)
    if done.returncode:
        say(name, "error", {"kind": f"exit {done.returncode}", "text": done.stderr.strip(), "own": True})
    else:
        say(name, "end")


def main(given: Sequence[str]) -> None:
    threads = []
    for text in given:
        name, _, url = text.partition("=")
        threads.append(threading.Thread(target=play, args=(name, f"{url}?access_token=key-{name}")))
        threads[-1].start()
    for thread in threads:
        thread.join()


main(sys.argv[1:])
