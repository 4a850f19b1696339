"""The stored results: schema, files, identity, selection."""
