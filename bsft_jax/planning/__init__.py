"""Plans of runs for devices that you do not have: memory, FLOPs, collectives, time."""
