"""One record for each request, and its sinks: metrics, traces, logs."""
