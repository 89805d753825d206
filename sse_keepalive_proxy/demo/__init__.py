"""A stand-in for notify-server, and the story of a healed stream."""
