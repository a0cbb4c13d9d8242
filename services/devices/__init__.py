"""GPUs and machines: what memory they have, what they say of themselves, how fast they move memory."""
