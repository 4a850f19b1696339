"""Reading and writing files: atomic, locked, checked."""
