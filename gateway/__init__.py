"""The gateway: HTTP in, server-sent events out. Knows the queues and the scheduler's types, and no engine."""
