"""Sockets on the event loop: which are ready, the transport over one, accepting, connecting."""
