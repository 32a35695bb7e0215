"""Devices and processes: the mesh, sharding rules, the processes of a run, environment settings."""
