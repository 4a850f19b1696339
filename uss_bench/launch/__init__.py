"""Many cells from one command: plans, the processes that run their cells, and who starts these."""
