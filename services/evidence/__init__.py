"""What this host does on a machine, measured: load tests, and the article's claims put to the proof."""
