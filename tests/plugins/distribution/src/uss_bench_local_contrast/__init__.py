"""A method for uss-bench; its ``spec.toml`` says which."""
