"""`bunkhouse prove`: the article's table, measured on the user's own machine and model.

bisection  the largest number that holds; pure
memory     what fits on a card; pure
subject    the model that is measured, and its engines
chats      chats through an engine, timed
speed      decoding at each precision
capacity   models and sessions that hold the targets
logits     the engine's next-token distributions
quality    perplexity, divergence, accuracy
distances  between answers, and between distributions; pure
study      all of it, in order
results    everything that was measured
claims     the article's claims beside it
page       HTML and Markdown
"""
