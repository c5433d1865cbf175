"""Whole data sets: ``osamd batch`` and its shards, formats and review page. Synchronous; no HTTP server."""
