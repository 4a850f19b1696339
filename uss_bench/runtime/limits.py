"""What may be asked for at most: more is a slip of the finger, and would run for days or fill the memory."""

LARGEST_SEED = 2**63 - 1
"""What generators take and records state."""
LARGEST_COUNT = 2**31 - 1
"""Of anything that is counted: steps, images, batches."""
MOST_CLUSTERS = 2**16
"""What the label maps of a record can hold."""
MOST_PROCESSES = 1024
DEEPEST_KEY = 64
"""Parts of a dotted key in TOML; a hundred thousand take Python's parser minutes."""
