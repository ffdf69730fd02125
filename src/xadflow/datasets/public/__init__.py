"""Public sets: fetched by package name, known by their content, read."""
