"""Everything that is kept in Redis, by subject; answers are typed values.

Three sides, one for each process: `SubmissionClient` (gateway), `SchedulerStore` (scheduler), `WorkConsumer` (worker).
`redis_keys` is the one module that names a Redis key.
"""
