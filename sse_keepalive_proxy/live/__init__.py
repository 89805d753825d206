"""Open streams: the I/O around the pure package `stream`."""
