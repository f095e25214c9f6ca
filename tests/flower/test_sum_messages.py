"""The phases of a secure sum survive the wire to the bit, and what is none of them is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, RecordDict
from loopback import content_over_the_wire

from decollapse.aggregate.mean import WeightedMean
from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ModelState
from decollapse.flower.calls import described
from decollapse.flower.messages import MessageError
from decollapse.flower.sum_messages import Asking, decode_reply, decode_request, encode_reply, encode_request
from decollapse.secure.encoding import FixedPoint, Layout
from decollapse.secure.messages import MaskedInput, PublicKeys, SealedShares, Session, Unmasking
from decollapse.secure.participant import AskInput, AskKeys, AskShares, AskUnmasking, Refusal, Reply, Request

RUN = bytes(range(240, 256))
SESSIONS = tuple(Session(RUN, number, (0, 3, 5), 2) for number in (0, 1))
EVERYONE = tuple(PublicKeys(client, bytes([client] * 32), bytes([255 - client] * 32)) for client in (0, 3, 5))
MODEL = ModelState({"w": torch.tensor([0.1, -0.0])}, {"batches": torch.tensor(2**53 + 1)})
BROADCAST = Broadcast(4, MODEL, seed=2**62 + 1, extras={"control/w": torch.ones(2)})
CALL = ClientUpdate(epochs=3)
INPUT = AskInput(SESSIONS[1], EVERYONE, (0, 3), CALL, BROADCAST, WeightedMean(), FixedPoint(3, bound=1e3), (0, 7))
UNMASKING = AskUnmasking(SESSIONS[1], EVERYONE, {0: b"\x00\xff", 5: b"letter"}, (0, 3))
RECIPE = {"secure_aggregation": True, "aggregate": "weighted_mean"}


def asking(request: Request) -> Asking:
    return Asking(3, request, RECIPE)


def sent(request: Request) -> Asking:
    return decode_request(content_over_the_wire(encode_request(asking(request))))


def replied(reply: Reply, request: Request) -> Reply:
    return decode_reply(content_over_the_wire(encode_reply(reply)), asking(request))


def test_a_request_for_keys_arrives_whole() -> None:
    came = sent(AskKeys(SESSIONS))
    assert (came.client, came.run) == (3, RUN)
    assert isinstance(came.request, AskKeys)
    assert came.request.sessions == SESSIONS


def test_a_request_for_shares_arrives_whole() -> None:
    came = sent(AskShares(SESSIONS, (EVERYONE, EVERYONE[:2]))).request
    assert isinstance(came, AskShares)
    assert (came.sessions, came.everyone) == (SESSIONS, (EVERYONE, EVERYONE[:2]))


def test_a_request_for_an_input_arrives_whole_with_its_call_and_broadcast() -> None:
    came = sent(INPUT)
    request = came.request
    assert isinstance(request, AskInput)
    assert came.recipe == RECIPE
    for name in ("session", "everyone", "sharers", "aggregate", "encoding", "completed"):
        assert getattr(request, name) == getattr(INPUT, name)
    assert request.call.table == described(CALL)[0]
    assert (request.broadcast.round, request.broadcast.seed) == (4, 2**62 + 1)
    for before, after in (
        (MODEL.params, request.broadcast.model.params),
        (MODEL.buffers, request.broadcast.model.buffers),
        (BROADCAST.extras, request.broadcast.extras),
    ):
        assert before.keys() == after.keys()
        assert all(torch.equal(leaf, after[name]) for name, leaf in before.items())


def test_a_request_to_unmask_arrives_whole() -> None:
    came = sent(UNMASKING).request
    assert isinstance(came, AskUnmasking)
    for name in ("session", "everyone", "inbox", "survivors"):
        assert getattr(came, name) == getattr(UNMASKING, name)


def test_masked_words_arrive_to_the_last_bit() -> None:
    words = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    layout = Layout((("w", (2, 1), "torch.float32"), ("n", (), "torch.float64")))
    came = replied(MaskedInput(3, layout, words), INPUT)
    assert isinstance(came, MaskedInput)
    assert came.words.dtype == np.uint64
    assert np.array_equal(came.words, words)
    assert came.layout == layout


@pytest.mark.parametrize(
    ("reply", "request_"),
    [
        ((EVERYONE[1], EVERYONE[1]), AskKeys(SESSIONS)),
        ((SealedShares(3, {0: b"a", 3: b"\xff", 5: b""}),), AskShares(SESSIONS[:1], (EVERYONE,))),
        (Unmasking(3, {0: 2**256 + 296, 3: 0}, {5: 1}), UNMASKING),
    ],
)
def test_every_other_reply_arrives_equal(reply: Reply, request_: Request) -> None:
    assert replied(reply, request_) == reply


def test_a_refusal_arrives_with_its_reason_whatever_was_asked() -> None:
    for request in (AskKeys(SESSIONS), AskShares(SESSIONS, (EVERYONE,) * 2), INPUT, UNMASKING):
        came = replied(Refusal("no disk"), request)
        assert isinstance(came, Refusal)
        assert came.reason == "no disk"


def altered(reply: Reply, **changes: object) -> RecordDict:
    content = encode_reply(reply)
    about = json.loads(content["sum"]["json"])
    content["sum"] = ConfigRecord({"json": json.dumps(about | changes)})
    return content


MASKED = MaskedInput(3, Layout((("w", (1,), "torch.float32"),)), np.zeros(1, np.uint64))
TOLD = Unmasking(3, {0: 1}, {})


@pytest.mark.parametrize(
    ("content", "request_"),
    [
        (RecordDict(), INPUT),
        (RecordDict({"sum": ConfigRecord({"json": "{}"})}), AskKeys(SESSIONS)),
        (altered(MASKED, client=5), INPUT),
        (altered(MASKED, layout=[["w"]]), INPUT),
        (altered(TOLD, self_masks={"0": "1"}), UNMASKING),
        (altered(TOLD, self_masks=[1]), UNMASKING),
        (encode_reply((EVERYONE[1],)), AskKeys(SESSIONS)),
        (encode_reply((replace(EVERYONE[1], mask=b"short"),)), AskKeys(SESSIONS[:1])),
        (encode_reply((SealedShares(3, {0: b"a"}),)), AskShares(SESSIONS[:1], (EVERYONE,))),
        (encode_reply(()), AskShares(SESSIONS, (EVERYONE,) * 2)),
        (encode_reply(TOLD), INPUT),
    ],
)
def test_what_is_no_answer_to_the_request_is_refused(content: RecordDict, request_: Request) -> None:
    with pytest.raises(MessageError):
        decode_reply(content, asking(request_))


@pytest.mark.parametrize("about", [{}, {"phase": "advertise keys", "sessions": []}, {"phase": "x", "sessions": [{}]}])
def test_what_is_no_request_is_refused(about: dict[str, object]) -> None:
    with pytest.raises(MessageError, match="no phase of a sum"):
        decode_request(RecordDict({"sum": ConfigRecord({"json": json.dumps(about)})}))
