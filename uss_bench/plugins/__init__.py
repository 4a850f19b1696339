"""Finding plugins, reading their specs, checking their parameters."""
