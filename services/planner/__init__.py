"""What fits on a card before anything starts: the arithmetic of weights, overhead and KV memory.

card       how much memory there is
need       what one model takes, at each precision
plan       all models on their cards: what fits, what is missing, what would fit
table      the plan as a person reads it
"""
