"""The support widget: the chat bubble that a tenant puts on its own pages.

tokens      public token -> bot
origins     which pages may use it (CORS)
store       conversations and counters in Redis
submit      chats that the host itself asks for
watch       what they add to the metrics
answers     one visitor's message becomes a chat; its answer is kept and relayed
webhook     one POST that cannot be turned against the host's own network
handover    the outbox of webhooks: kept in Redis, retried
router      the HTTP face
static/     widget.js and the demo shop
"""
