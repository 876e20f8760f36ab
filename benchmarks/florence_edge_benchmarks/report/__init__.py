"""Reports: results as an HTML page and as Markdown, with tables and drawings."""
