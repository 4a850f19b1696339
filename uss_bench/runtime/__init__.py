"""The process and the machine: progress, devices, cores, memory, seeds."""
