"""The admin API: tenants, keys, bots, models, sessions, jobs, usage, audit. One file a resource."""
