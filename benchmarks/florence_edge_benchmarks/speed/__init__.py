"""Speed: systems in processes of their own start, take turns and are timed."""
