"""Many machines as one."""
