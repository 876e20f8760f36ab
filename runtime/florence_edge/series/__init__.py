"""Many pictures in turn: read ahead, ask each the same, and keep the answers in a file."""
