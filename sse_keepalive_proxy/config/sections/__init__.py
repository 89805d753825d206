"""The sections of the configuration: every key, its type, its default, what it does."""
