"""The tables of a report, one module for each kind of result or subject."""
