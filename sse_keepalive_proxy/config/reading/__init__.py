"""Read a file, the environment and the flags into one valid configuration."""
