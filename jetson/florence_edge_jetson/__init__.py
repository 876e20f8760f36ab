"""The device a bundle runs on: its board, its power, its health."""
