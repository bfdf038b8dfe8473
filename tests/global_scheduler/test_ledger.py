"""The scheduler's side of commitments, where no predictor listens."""

from __future__ import annotations

from block.config import InstanceConfig
from block.http.client import Client
from block.messages import CandidateRequest
from global_scheduler.courier import Courier
from global_scheduler.fleet import Instance
from global_scheduler.ledger import UNTOLD_TTL_S, Ledger


async def test_what_is_never_acknowledged_is_carried_for_a_time() -> None:
    instance = Instance(
        InstanceConfig(name="a", url="http://127.0.0.1:1", predictor_url="http://127.0.0.1:1")
    )
    now_s = 100.0
    http = Client(connect_s=1.0, rest_s=1.0)
    courier = Courier(http)
    ledger = Ledger(courier, clock=lambda: now_s)
    ledger.commit(instance, CandidateRequest("old", 1, 1, 1))
    now_s += UNTOLD_TTL_S / 2
    ledger.commit(instance, CandidateRequest("new", 1, 1, 1))
    assert [one.id for one in ledger.untold(instance)] == ["old", "new"]
    now_s += UNTOLD_TTL_S / 2 + 1
    assert [one.id for one in ledger.untold(instance)] == ["new"]
    courier.close()
    await http.close()
