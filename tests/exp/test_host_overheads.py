"""Constants of the host, found again in logs that were made with them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from block.errors import PackError
from exp.host_overheads import HostOverheads, StepTimes, measure_overheads
from exp.run_log import RequestLog, RunHeader, RunLog

TRUE = HostOverheads(
    way_in_s=0.004,
    way_in_per_token_s=2e-6,
    first_out_s=0.003,
    way_out_s=0.001,
    way_out_per_request_s=1e-4,
    engine_s=3e-4,
    engine_per_request_s=2e-5,
)
STEP_S = 0.02


def made_up(seed: int) -> tuple[RunLog, StepTimes]:
    """An engine that gets groups of requests: the first of a group alone, the others with the next step."""
    draw, start_s, now_s = random.Random(seed), 1000.0, 1.0
    requests: list[RequestLog] = []
    steps: list[tuple[float, float, float, float]] = []
    for _ in range(60):
        size, prompt, tokens = draw.randint(1, 12), draw.randint(1, 900), 12
        sent_s = now_s
        submit_s, host_s = sent_s + TRUE.way_in(prompt), float("nan")
        ends = []
        for index in range(tokens):
            batch = 1 if index == 0 else size
            steps.append((submit_s, submit_s + STEP_S, host_s, float(batch)))
            ends.append((submit_s + STEP_S, batch))
            host_s = TRUE.engine(batch)
            submit_s += STEP_S + host_s
        for member in range(size):
            mine = ends if member == 0 else ends[1:]
            times = tuple(end + TRUE.way_out(n, first=i == 0) for i, (end, n) in enumerate(mine))
            sent = sent_s if member == 0 else sent_s + 0.01
            requests.append(RequestLog(sent, sent, prompt, len(times), times))
        now_s = submit_s + 0.5
    header = RunHeader("real", "made up", start_s, 1.0, 0, 0.0, 0.0)
    columns = np.array(steps).T
    return RunLog(header, tuple(requests)), StepTimes(
        columns[0] + start_s, columns[1] + start_s, columns[2], columns[3]
    )


def test_a_crowd_on_its_way_in_tells_nothing_of_the_way_in() -> None:
    requests: list[RequestLog] = []
    submits: list[float] = []
    for turn in range(40):
        now_s, crowd = 2.0 * turn, 1 + turn % 4
        for member in range(crowd):
            sent_s, answered_s = now_s + 0.001 * member, now_s + 1.0 + 0.1 * member
            requests.append(RequestLog(sent_s, sent_s, 100, 1, (answered_s,)))
        # With the front end busy with all of them, the first one comes late; then each in a batch of its own.
        first_s = 0.004 if crowd == 1 else 0.05
        submits += [now_s + first_s + 0.1 * member for member in range(crowd)]
    submit_s = np.array(submits)
    steps = StepTimes(submit_s, submit_s + STEP_S, np.full(len(submits), np.nan), np.ones(len(submits)))
    run = RunLog(RunHeader("real", "crowds", 0.0, 1.0, 0, 0.0, 0.0), tuple(requests))
    assert measure_overheads([run], steps).way_in(100) == pytest.approx(0.004)


def test_the_constants_are_found_again() -> None:
    run, steps = made_up(seed=1)
    found = measure_overheads([run], steps)
    for name in ("way_in_s", "first_out_s", "way_out_s", "engine_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.15), name
    for name in ("way_in_per_token_s", "way_out_per_request_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.15), name


def test_a_pause_of_the_machine_does_not_count() -> None:
    run, steps = made_up(seed=2)
    paused = list(run.requests)
    for index in range(0, len(paused), 40):
        late = tuple(at + 0.3 for at in paused[index].token_s)
        paused[index] = RequestLog(0.0, paused[index].sent_s, 5, len(late), late)
    plain = measure_overheads([run], steps)
    found = measure_overheads([RunLog(run.header, tuple(paused))], steps)
    assert found.way_out(4, first=False) == pytest.approx(plain.way_out(4, first=False), rel=0.1)


def test_a_queue_of_prompts_before_the_engine_is_no_way_in() -> None:
    """Ten came alone; forty came with another on their heels, and both waited for the front end."""
    requests, steps = [], []
    for number in range(50):
        sent_s, alone = float(number), number % 5 == 0
        submit_s = sent_s + (0.004 if alone else 0.02)
        sent = (sent_s,) if alone else (sent_s, sent_s + 0.001)
        requests += [RequestLog(each, each, 10, 1, (submit_s + 0.03,)) for each in sent]
        steps.append((submit_s, submit_s + 0.01, float("nan"), 1.0))
    run = RunLog(RunHeader("real", "made up", 0.0, 1.0, 0, 0.0, 0.0), tuple(requests))
    assert measure_overheads([run], StepTimes(*np.array(steps).T)).way_in(10) == pytest.approx(0.004)


def test_nothing_seen_is_nothing() -> None:
    none = np.array([])
    assert measure_overheads([], StepTimes(none, none, none, none)) == HostOverheads()


def test_they_lie_beside_the_pack_and_damage_is_named(tmp_path: Path) -> None:
    path = HostOverheads.beside(tmp_path / "tiny.npz")
    assert path.name == "tiny.host.json"
    TRUE.save(path)
    assert HostOverheads.load(path) == TRUE
    path.write_text('{"way_in_s": "soon"}')
    with pytest.raises(PackError, match=r"tiny\.host\.json: not a file of host overheads"):
        HostOverheads.load(path)
    with pytest.raises(PackError, match="cannot be read"):
        HostOverheads.load(tmp_path / "none.json")
