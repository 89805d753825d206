"""From a request of a client to bytes on its connection."""
