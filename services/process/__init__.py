"""Processes of this host: children that never outlive their parent, logs, garbage collection."""
