"""Results: what was measured, as values and as JSON files."""
