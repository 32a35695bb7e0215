"""BehaviorBench tasks: simulated cases and their task builders, public data sets, and checks.

`splits` keeps cases together, and `shortcuts` measures whether words alone give a behavior away.
"""
