"""One model's worker: takes admitted chats, runs them through its engine, writes replies, settles.

worker   what runs, and how it stops
chat     one chat, from claim to settlement
writer   replies of all chats, written in batches
engine   the engine's life: start, watch, restart with back-off, change of KV bits
meter    latencies as chats see them
"""
