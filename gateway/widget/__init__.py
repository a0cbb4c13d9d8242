"""The support widget: the chat bubble that a tenant puts on its own pages.

sites       public token -> bot
origins     which pages may use it (CORS)
answers     one visitor's message becomes a chat; its answer is kept and streamed
visitors    visitors whom the shop vouches for by a signed token
webhook     one POST that cannot be turned against the host's own network
handover    the outbox of webhooks: kept in Redis, retried
router      the HTTP face
script      widget.js, put together from its source files
static/     those files, and the demo shop
"""
