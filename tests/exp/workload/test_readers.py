"""Each kind of trace file: what is read, and what a bad line is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from block.errors import ConfigError
from exp.workload import TraceRequest, WorkloadSpec, load_workload

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def spec(count: int, **options: object) -> WorkloadSpec:
    return WorkloadSpec(count, None, Path("nowhere"), most_tokens=100_000, **options)  # type: ignore[arg-type]


def read(kind: str, path: Path, text: str, count: int, **options: object) -> tuple[TraceRequest, ...]:
    path.write_text(text, encoding="utf-8")
    return load_workload(f"{kind}:{path}", spec(count, **options)).requests


def test_burstgpt_keeps_its_times_and_leaves_failures_out(tmp_path: Path) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,10,0,10,API log\n\n47.5,GPT-4,7,9,16,API log\n"
    requests = read("burstgpt", tmp_path / "b.csv", BURST + rows, 2)
    assert requests == (TraceRequest(0.0, 472, 18), TraceRequest(42.5, 7, 9))


def test_mooncake_brings_the_blocks_that_prompts_share(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 1000, "input_length": 1024, "output_length": 5, "hash_ids": [7, 8]},
        {"timestamp": 3000, "input_length": 600, "output_length": 6, "hash_ids": [7, 9]},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    requests = read("mooncake", tmp_path / "m.jsonl", text, 2)
    assert requests == (TraceRequest(0.0, 1024, 5, (7, 8)), TraceRequest(2.0, 600, 6, (7, 9)))


def test_lengths_may_have_times_or_get_them_drawn(tmp_path: Path) -> None:
    timed = read("lengths", tmp_path / "t.csv", "arrival_s,prompt_tokens,output_tokens\n2,3,4\n1,5,6\n", 2)
    assert timed == (TraceRequest(0.0, 5, 6), TraceRequest(1.0, 3, 4))
    (tmp_path / "l.csv").write_text("prompt_tokens,output_tokens\n3,4\n5,6\n")
    drawn = load_workload(f"lengths:{tmp_path / 'l.csv'}", WorkloadSpec(2, 0.5, tmp_path)).requests
    assert sorted((r.prompt_tokens, r.output_tokens) for r in drawn) == [(3, 4), (5, 6)]
    assert drawn[1].arrival_s > 0
    with pytest.raises(ConfigError, match="give a rate"):
        load_workload(f"lengths:{tmp_path / 'l.csv'}", spec(2))


def test_sharegpt_takes_the_first_exchange_as_text_and_counts_it(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    turns = [{"from": "human", "value": "abc abd abe"}, {"from": "gpt", "value": "abf abg"}]
    odd = [{"from": "gpt", "value": "hello"}, {"from": "human", "value": "x"}]
    text = json.dumps([{"id": "1", "conversations": turns}, {"conversations": odd}, {"conversations": []}])
    path = tmp_path / "s.json"
    path.write_text(text)
    workload = load_workload(
        f"sharegpt-text:{path}", WorkloadSpec(1, 1.0, tmp_path, tokenizer=tokenizer_file)
    )
    (request,) = workload.requests
    assert request.prompt == "abc abd abe"
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    told = [len(tokenizer.encode(text).ids) for text in ("abc abd abe", "abf abg")]
    assert [request.prompt_tokens, request.output_tokens] == told
    with pytest.raises(ConfigError, match="has 1 requests"):
        load_workload(f"sharegpt-text:{path}", WorkloadSpec(2, 1.0, tmp_path))


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("burstgpt", BURST + "5,G,x,18,490,API log\n", r"f:2: Request tokens = 'x': .*whole number.*mend"),
        ("burstgpt", BURST + "5,G,-4,18,490,API log\n", r"f:2: Request tokens = '-4'"),
        ("burstgpt", BURST + "never,G,4,18,490,API log\n", r"f:2: Timestamp = 'never': .*seconds"),
        ("burstgpt", BURST + "5,G,4\n", r"f:2: 3 fields under 6 columns"),
        ("azure", "TIMESTAMP,Context\n", r"f:1: no column ContextTokens; it has TIMESTAMP, Context: rename"),
        ("azure", AZURE + "yesterday,1,2\n", r"f:2: TIMESTAMP = 'yesterday': must be a date"),
        ("azure", "", r"f: empty"),
        ("mooncake", '{"timestamp": 0}\n', r"f:1: input_length: missing; mend"),
        ("mooncake", "\n{oh\n", r"f:2: not JSON"),
        ("mooncake", "[1]\n", r"f:1: must be an object, found list"),
        (
            "mooncake",
            '{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [1, 2]}\n',
            r"f:1: hash_ids = \[1, 2\]: more entries than blocks",
        ),
        ("mooncake", '{"timestamp": 0, "input_length": true, "hash_ids": []}', "input_length = True"),
        ("sharegpt-text", "{}", r"f: must be a list of conversations"),
        ("sharegpt-text", '[{"conversations": 3}]', r"f: entry 1: conversations = 3: must be a list"),
        ("sharegpt-text", '[{"conversations": [1, 2]}]', r"entry 1: conversations .*text as its value"),
        ("lengths", "prompt_tokens,output_tokens\n" + "9" * 200 + ",1\n", r"f:2: prompt_tokens = '9+"),
    ],
)
def test_a_bad_file_is_told_by_line_and_field_with_the_remedy(
    tmp_path: Path, kind: str, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said.replace("f:", re.escape(str(tmp_path / "f:")[:-1]) + ":")):
        read(kind, tmp_path / "f", text, 1)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    for kind in ("lengths", "mooncake", "sharegpt-text"):
        with pytest.raises(ConfigError, match=r"not UTF-8|not JSON"):
            load_workload(f"{kind}:{tmp_path / 'f'}", spec(1))


def test_times_that_are_all_one_are_not_taken_for_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("prompt_tokens,output_tokens,arrival_s\n" + "10,5,7\n" * 3)
    wanted = WorkloadSpec(3, 5.0, tmp_path)
    with pytest.raises(ConfigError, match="all 3 are recorded at one moment"):
        load_workload(f"lengths:{path}", wanted)
    drawn = load_workload(f"lengths:{path}", replace(wanted, recorded_times=False))
    assert len({request.arrival_s for request in drawn.requests}) == 3


def test_a_csv_file_needs_no_kind_before_its_name(tmp_path: Path) -> None:
    path = tmp_path / "MY.CSV"
    path.write_text("prompt_tokens,output_tokens\n10,5\n")
    assert load_workload(str(path), WorkloadSpec(1, 5.0, tmp_path)).source == "lengths (MY.CSV)"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"count": 0}, "requests = 0"), ({"rate_per_s": 0.0}, "rate"), ({"burstiness": 0.0}, "burstiness")],
)
def test_impossible_wishes_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WorkloadSpec(**{"count": 1, "rate_per_s": 1.0, "data": Path(), **options})  # type: ignore[arg-type]
