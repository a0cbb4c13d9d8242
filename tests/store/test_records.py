"""Records in Redis: what an older process wrote is read as it was meant."""

from __future__ import annotations

import orjson

from services.contracts.chats import OutputFormat, Payload, Sampling, ToolFormat
from services.store.records import decode_payload, encode


def test_a_payload_is_read_as_it_was_written() -> None:
    sampling = Sampling(temperature=0.2, seed=7, stop=("END",), logit_bias=((11, -5.0),), stop_token_ids=(7,))
    output = OutputFormat(ToolFormat.FAMILY, {"stock": {"item": "string"}}, thinking=True)
    payload = Payload("Hello", "salt", sampling, "polite", output=output)
    assert decode_payload(encode(payload)) == payload


def test_a_payload_of_before_sampling_was_one_value_keeps_its_parameters() -> None:
    stored = orjson.dumps(
        {"prompt": [1, 2], "salt": "s", "temperature": 0.2, "top_p": 0.5, "stop": ["END"], "messages": []}
    )
    assert decode_payload(stored) == Payload((1, 2), "s", Sampling(temperature=0.2, top_p=0.5, stop=("END",)))
