"""The support widget: the chat bubble that a tenant puts on its own pages.

sites       public token -> bot
origins     which pages may use it (CORS)
answers     one visitor's message becomes a chat; its answer is kept and streamed
webhook     one POST that cannot be turned against the host's own network
handover    the outbox of webhooks: kept in Redis, retried
router      the HTTP face
static/     widget.js and the demo shop
"""
