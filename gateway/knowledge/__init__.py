"""What a bot knows, brought into its prompts.

catalog     every bot's index, built anew when its knowledge changes
program     reading and indexing in a process of its own
grounding   a request with what was found for it, and where that comes from
refusals    topics that a bot does not talk about
words       the answer to an unknown question, and messages that are no questions
"""
