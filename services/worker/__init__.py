"""One model's worker: takes admitted chats, runs them through its engine, writes replies, settles.

worker             what runs, and how it stops
chat               one chat, from claim to settlement
parsers            what each piece of an answer is
reply_writer       replies of all chats, written in batches
engine_supervisor  start, watch and restart the engine, with back-off; latencies as chats see them
command_runner     commands, carried out one at a time: KV bits, sleep, wake, unload, load
kv_change          a change of KV bits that costs no chat
demotion           chats whose KV is lowered while they run
overflow           the worker of another provider
"""
