"""Play several streams at the same time with one library, and print what its user sees as JSON lines.

    python driver.py PLAYER NAME=URL...

A line is [name, kind, value]. The kinds: `event`, `error` ({"kind", "text", "own"}), `warning` (a log
record or a Python warning), `end` (the library's loop has ended by itself). `own` says whether the exception
is of a class that the library defines for its users. A play without `error` and `end` has not ended in time.
"""

import importlib
import json
import logging
import os
import sys
import threading
import time
import warnings

SECONDS = float(os.environ.get("PLAY_SECONDS", "20"))
lock = threading.Lock()
output = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints must not stand among the lines


def say(name, kind, value=None):
    with lock:
        output.write(json.dumps([name, kind, value]) + "\n")
        output.flush()


class Logged(logging.Handler):
    def emit(self, record):
        say(record.threadName, "warning", f"{record.name}: {record.getMessage()}")


def innermost(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def play(player, name, url):
    try:
        player.play(url, f"key-{name}", lambda event: say(name, "event", event))
    except BaseException as raised:  # noqa: BLE001 - whatever the user of the library would see
        error = innermost(raised)
        kind = f"{type(error).__module__.partition('.')[0]}.{type(error).__qualname__}"
        own = isinstance(error, player.OWN)
        say(name, "error", {"kind": kind, "text": str(error), "own": own})
    else:
        say(name, "end")


def main():
    player = importlib.import_module(sys.argv[1])
    logging.getLogger().addHandler(Logged(logging.WARNING))
    warnings.simplefilter("always")  # also what is hidden from users of a library, and more than once
    warnings.simplefilter("ignore", ResourceWarning)  # these come whenever the collector runs
    warnings.showwarning = lambda message, *_: say(threading.current_thread().name, "warning", str(message))
    threads = []
    for given in sys.argv[2:]:
        name, _, url = given.partition("=")
        threads.append(threading.Thread(target=play, args=(player, name, url), name=name, daemon=True))
    # What a library imports and warns of only once belongs to the first stream.
    threads[0].start()
    threads[0].join(SECONDS / 2)
    give_up_at = time.monotonic() + SECONDS
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(max(0, give_up_at - time.monotonic()))
    os._exit(0)  # a library may have threads that would wait for ever


main()
