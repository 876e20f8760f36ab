"""florence-doctor: is this machine ready, and what fixes it."""
