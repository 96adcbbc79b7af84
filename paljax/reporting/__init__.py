"""Parts of the report: results read from a run, wording, drawing, the page and its sections."""
