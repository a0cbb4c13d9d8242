"""What every process needs of its own: children that never outlive it, logs, ports, garbage collection."""
