"""Token counts, token ids and chat templates, as the engines see them."""
