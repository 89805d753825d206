"""`python -m sse_keepalive_proxy`: the same as the `sse-keepalive-proxy` command."""

import sys

from sse_keepalive_proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
