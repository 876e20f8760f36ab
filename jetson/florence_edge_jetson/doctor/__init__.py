"""florence-doctor: is this machine ready, and what mends it."""
