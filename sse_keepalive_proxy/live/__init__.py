"""One open stream: the I/O around `stream`."""
