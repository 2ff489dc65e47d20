"""What can be written into an options file: `catalogue` collects it, and schema, page, list and new files are made from it."""
