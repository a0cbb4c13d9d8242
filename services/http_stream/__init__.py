"""The one lean HTTP/1.1 client for streams, and the one reader of server-sent events: for engines and load tests.

connection   a response as it arrives, and connections kept for the next request
sse          bytes into events
client       requests whose streamed answer goes to a callback, with the time of each piece
"""
