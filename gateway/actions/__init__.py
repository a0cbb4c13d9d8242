"""Actions: HTTP calls that the host makes for a bot, between a question and its answer.

catalog     a bot's actions
"""
