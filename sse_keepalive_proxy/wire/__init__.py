"""The event-stream format (WHATWG HTML 9.2). Pure: bytes in, bytes out."""
