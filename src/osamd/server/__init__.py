"""The HTTP edge: keys, limits, wire format, routes."""
