"""florence-run: pictures, cameras and videos from the command line."""
