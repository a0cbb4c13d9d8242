"""A seeded discrete-event simulator: GPU, engines and tenants around the real scheduler, on a virtual clock.

    gpu.py        how fast engines that share a device decode and read prompts; who holds how much KV
    traffic.py    tenants: sessions by the hour of the day, bursts, floods, long documents
    baselines.py  what the scheduler is compared with
    world.py      the clock: events in order, the scheduler stepped after each
    figures.py    percentiles, goodput, broken targets
    scenarios.py  the runs behind each figure

Between two events all rates are constant, so a run costs by chats, not by tokens. The same seed gives the same run.
"""
