"""One record per request, and its sinks: metrics, traces, logs."""
