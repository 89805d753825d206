"""The life of one stream. Pure: time is an argument, never read."""
