"""HTTP/1.1 on both sides, which knows no route and no stream."""
