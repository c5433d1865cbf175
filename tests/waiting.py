"""How long tests wait for what must come.

Only a failure takes that long, so it is long enough for a machine that has ten times as much to do as it can.
"""

WAIT_S = 180.0
