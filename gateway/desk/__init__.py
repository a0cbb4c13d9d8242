"""Conversations and the people who take them over.

phrases     messages by which a visitor asks for a person, in nine languages
people      handover to a person, their replies, hand back
replies     people's replies from other programs, signed
adapters    what each receiver of a handover is sent
events      what a page sees of it, as server-sent events
"""
