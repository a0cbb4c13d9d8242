"""Background work, by Celery on the host's Redis. Never on the way of a token.

store      jobs as Redis keeps them: state, progress, words, result
broker     the Celery application
run        one attempt at a job: claim, heartbeat, cancel, end
tasks      kinds of jobs and what does them
scene      reads what a plan looks at
follow     a command to a model's worker, followed to its end
figures    measured quality, as Redis keeps it
precision  change of a model's KV bits       power     load, unload, sleep, wake
quality    what KV bits cost a model         loadtest  a scenario against this host
rollup     a day's usage, kept for good      autotune  KV bits per bot, proposed
plan       what a change of KV bits would do; also the admin API's dry run
beat       what is due by the clock: sweep, roll-up, autotune
"""
