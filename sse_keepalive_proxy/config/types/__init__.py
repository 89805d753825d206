"""What single values of the configuration may look like."""
