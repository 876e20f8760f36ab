"""florence-serve under load: whether anything is lost or mixed up, how fast, how much memory."""
