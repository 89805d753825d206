"""The types of single values of the configuration."""
