"""Programs that use a client library as its user would. Each is run in a process of its own."""
