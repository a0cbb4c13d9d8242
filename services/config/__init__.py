"""The configuration of a host: one YAML file, its secrets, the addresses in it."""
