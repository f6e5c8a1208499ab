"""Collections: code lists, each with a JSON Schema of its items' attributes."""
