"""Routes, one file a family. Each gets what it needs from ``services_of(request)``."""
