"""Answer requests: routes, forwarding, identity, CORS, streams and WebSockets."""
