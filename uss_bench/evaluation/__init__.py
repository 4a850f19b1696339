"""From score maps to counts, and from counts to scores."""
