"""The device a bundle runs on."""
