"""Other APIs over the one chat path: each translates a request into a chat, and the reply into its own answer."""
