"""Speed, accuracy and energy of bundles, as JSON and as reports."""
