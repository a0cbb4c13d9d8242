"""Conversations and the people who take them over.

phrases     messages by which a visitor asks for a person, in nine languages
hours       when people are there
people      handover to a person, their replies, hand back
events      what a page sees of it, as server-sent events
"""
