"""Background work, by Celery on the host's Redis. Never on the way of a token.

services.store.jobs keeps what Celery does not: state, progress, result, and one change at a time for each model.

celery_app     the Celery application: queue, acknowledgements, schedule
tasks          one Celery task for each kind of job, and the scheduled ones
attempt        one run of a job: claim, heartbeat, cancel, end
periodic       what the schedule does: lost messages, roll-ups, autotune
kv_bits        change of a model's KV bits          model_power   load, unload, sleep, wake
quality        what KV bits cost a model            loadtest      a scenario against this host
usage_rollup   a day's usage, kept for good         autotune      KV bits for each bot, proposed
bot_test       a bot's test set at several KV bits  pattern_search its regular expressions, in a process apart
model_command  a command to a model's worker, followed to its end
"""
