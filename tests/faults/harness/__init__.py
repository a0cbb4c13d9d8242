"""Parts of a whole host fail under chats: what becomes of each chat, and how long the longest one stood still.

client      one client that does not give up: retries with its Idempotency-Key, resumes with Last-Event-ID
load        many of them, at mixed rates
audit       what Redis says afterwards: pieces lost or doubled, anything left over
scene       the hosts that scenarios run on
proxy       between a process and its Redis or its engine: slow, silent, cut off
scenarios   what fails, one function each
"""
