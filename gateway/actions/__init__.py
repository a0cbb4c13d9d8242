"""Actions: HTTP calls that the host makes for a bot, between a question and its answer.

catalog     a bot's actions
arguments   what the visitor wrote, checked, and written into a URL
calls       one call, and what came of it
choice      the model decides which action, held to a schema
results     what came of calls, as messages
loop        decide, call, decide again, within bounds
"""
