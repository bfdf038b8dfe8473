"""What is said of an address that cannot be listened on; test_local.py has the taken port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from block.errors import DeployError
from deploy.plan import ProcessPlan
from deploy.readiness import check_ports


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "::zz"])
def test_a_host_that_is_not_this_machines_is_not_blamed_on_the_port(
    host: str, free_ports: Callable[[int], list[int]], stand_in: Callable[..., ProcessPlan]
) -> None:
    plan = replace(stand_in(free_ports(1)[0]), host=host)
    with pytest.raises(DeployError, match="--set host=ADDRESS") as caught:
        check_ports((plan,))
    assert str(caught.value).startswith(f"host {host!r} is not an address of this machine: ")
    assert "port" not in str(caught.value)
