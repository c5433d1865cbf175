"""JSON and multipart to and from ``osamd.types``. Knows neither requests nor the engine."""
