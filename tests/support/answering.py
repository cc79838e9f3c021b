"""A client's answer to a request for training, as its node asks for it within a simulation."""

from __future__ import annotations

from functools import partial

from client_side.answering import answer_training
from client_side.proxy_training import ReleaseCodec
from protocol.messages import ReleaseReply
from protocol.wire import decode_bytes, encode_bytes

CODEC = ReleaseCodec(encode=encode_bytes, decode=lambda data: decode_bytes(data, ReleaseReply))
train = partial(answer_training, codec=CODEC, is_deployed=False)
