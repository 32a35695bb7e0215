"""What a run would take on devices that are not there: memory, FLOPs, collectives, an estimate of time."""
