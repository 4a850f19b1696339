"""What is run: cells, their setup, and the run itself."""
