"""The sections of the configuration: every key with its type, its default and its description."""
