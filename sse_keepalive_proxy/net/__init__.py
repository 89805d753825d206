"""Sockets on the event loop: readiness, transports, listeners, outgoing connections, timers."""
