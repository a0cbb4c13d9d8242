"""Redis queues: what waits, what is admitted, what was answered. Three sides, one for each process:
`Door` (gateway), `Desk` (scheduler), `Bench` (worker). `keys` is the one module that names a Redis key."""
