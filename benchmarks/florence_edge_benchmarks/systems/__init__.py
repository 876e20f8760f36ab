"""The compared systems, what they are to answer, and how each does so in its process."""
