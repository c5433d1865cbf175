"""Routes, one file a family. Each reads its engine and settings from ``request.app.state``."""
