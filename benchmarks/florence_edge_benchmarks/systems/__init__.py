"""The compared systems, what they are asked to do, and how each answers in its process."""
