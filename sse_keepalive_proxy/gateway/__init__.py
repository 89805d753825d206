"""A request to its answer: routes, forwarding, who may do what."""
