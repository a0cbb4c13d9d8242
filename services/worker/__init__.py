"""One model's worker: takes admitted chats, runs them through its engine, writes replies, settles.

worker   what runs, and how it stops
chat     one chat, from claim to settlement
writer   replies of all chats, written in batches
engine   the engine's life: start, watch, restart with back-off, rest
orders   commands, carried out one at a time: KV bits, sleep, wake, unload, load
change   a change of KV bits that costs no chat
meter    latencies as chats see them
"""
