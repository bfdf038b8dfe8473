"""Tiny operator profiles of imagined GPUs, in the layouts of the projects that record them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import yaml

LAYERS, HIDDEN = 2, 64
_TOKENS = (1, 8, 64, 512, 2048)


def dense_us(tokens: float) -> float:
    """Of one linear layer of the imagined GPU."""
    return 50 + 0.2 * tokens


def attention_us(chunk: float, before: float, decodes: float, context: float) -> float:
    """Of one layer's mixed attention."""
    return 5 + 1e-4 * chunk * (before + chunk / 2) + 2e-3 * decodes * context


def write_csv(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def layer_profile(folder: Path, tp: int = 1, skew: bool = True) -> Path:
    """LLMServingSim's layout; model ``tiny/llama-3.1-8b``."""
    tables = folder / f"tp{tp}"
    dense = [(layer, n, dense_us(n)) for layer in ("qkv_proj", "layernorm", "embedding") for n in _TOKENS]
    write_csv(tables / "dense.csv", "layer,tokens,time_us", dense)
    heads = [("lm_head", n, 100 + n) for n in (1, 64, 256)]
    write_csv(tables / "per_sequence.csv", "layer,sequences,time_us", heads)
    contexts = (16, 1024, 16384)
    points = [(0, 0, n, kv) for n, kv in product((1, 16, 256), contexts)]
    points += [
        (c, b, n, kv)
        for c, b in product((16, 512, 2048), (0, 512, 4096))
        for n, kv in product((1, 256), contexts)
    ]
    points += [(c, b, 0, 0) for c, b in product((16, 512, 2048), (0, 512, 4096))]
    rows = [(c, b, n, kv, attention_us(c, b, n, kv)) for c, b, n, kv in points]
    write_csv(tables / "attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", rows)
    if skew:
        header = "pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples"
        bins = product(
            (0, 512), ("n<=16", "n>16"), ("sr<=50%", "sr>50%"), ("kvB<=1k", "kvB>1k"), ("kp=0", "kp>0")
        )
        write_csv(tables / "skew_fit.csv", header, ((*each, 0.1, 4) for each in bins))
    (folder / "meta.yaml").write_text("model: tiny/llama-3.1-8b\n")
    return folder


def vidur_profile(
    folder: Path, gpu: str = "a30", model: str = "Llama-2-7b-hf", statistic: str = "median"
) -> Path:
    """Vidur's layout, in milliseconds; returns the profiling folder."""
    names = ("emb", "attn_pre_proj", "mlp_up_proj")
    columns = [f"time_stats.{name}.{statistic}" for name in names]
    rows = [(*(dense_us(n) / tp / 1e3 for _ in names), n, tp) for n, tp in product(_TOKENS, (1, 2))]
    header = ",".join((*columns, "num_tokens", "num_tensor_parallel_workers"))
    place = folder / "compute" / gpu / "meta-llama" / model
    write_csv(place / "mlp.csv", header, rows)
    columns = [
        f"time_stats.{name}.{statistic}" for name in ("attn_prefill", "attn_decode", "attn_kv_cache_save")
    ]
    header = ",".join(
        (
            *columns,
            "num_tensor_parallel_workers",
            "batch_size",
            "prefill_chunk_size",
            "kv_cache_size",
            "is_prefill",
        )
    )
    prefills = [
        (attention_us(c, b, 0, 0) / 1e3, 0, 0.001, tp, 1, c, b, True)
        for tp, c, b in product((1, 2), (16, 512, 2048), (0, 1024))
    ]
    decodes = [
        (0, attention_us(0, 0, n, kv) / 1e3, 0.001, tp, n, 0, kv, False)
        for tp, n, kv in product((1, 2), (1, 16, 64), (16, 4096))
    ]
    write_csv(place / "attention.csv", header, [*prefills, *decodes])
    reduce = [(0.01 + size / 1e8, 2, size, 2) for size in (2048, 2**20)]
    write_csv(
        folder / "network" / gpu / "all_reduce.csv",
        f"time_stats.all_reduce.{statistic},num_workers,size,devices_per_node",
        reduce,
    )
    write_csv(
        folder / "network" / gpu / "send_recv.csv",
        f"time_stats.send_recv.{statistic},num_workers,size,devices_per_node",
        reduce,
    )
    return folder


def kernel_tables(folder: Path) -> Path:
    """aiconfigurator's layout, for Llama-3.1-8B on one or two devices; returns the system's folder."""
    system = folder / "h100_sxm"
    tables = system / "vllm-0.14.0"
    tables.mkdir(parents=True)
    datasheet = {"mem_capacity": 80e9, "mem_bw": 3.35e12, "bfloat16_tc_flops": 989e12}
    (system / "system.yaml").write_text(yaml.safe_dump({"gpu": datasheet}))
    products = [
        {"gemm_dtype": kind, "m": m, "n": n, "k": k, "latency": product_ms(m, n, k)}
        for kind, m, n, k in product(("bfloat16", "fp8"), (1, 64, 8192), (1024, 65536), (1024, 16384))
    ]
    _write_parquet(tables / "gemm_perf.parquet", products)
    heads = [{"num_heads": 32 // tp, "num_key_value_heads": 8 // tp} for tp in (1, 2)]
    common = {"head_dim": 128, "kernel_source": "flash"}
    caches = ("bfloat16", "fp8")
    prompts = [
        {
            **common,
            **each,
            "kv_cache_dtype": cache,
            "batch_size": 1,
            "isl": n,
            "step": 0,
            "latency": 0.01 + 1e-8 * n * n,
        }
        for each, cache, n in product(heads, caches, (16, 256, 1024, 4096, 16384))
    ]
    _write_parquet(tables / "context_attention_perf.parquet", prompts)
    decodes = [
        {
            **common,
            **each,
            "kv_cache_dtype": cache,
            "batch_size": n,
            "isl": 1,
            "step": kv - 1,
            "latency": 0.005 + (1e-6 if cache == "bfloat16" else 5e-7) * n * kv,
        }
        for each, cache, n, kv in product(heads, caches, (1, 16, 256), (16, 1024, 16384))
    ]
    _write_parquet(tables / "generation_attention_perf.parquet", decodes)
    reduces = [
        {"num_gpus": 2, "backend": "vllm_graph", "message_size": size, "latency": 0.005 + size * 1e-8}
        for size in (1024, 2**27)
    ]
    _write_parquet(tables / "custom_allreduce_perf.parquet", reduces)
    return system


def product_ms(m: float, n: float, k: float) -> float:
    """Of one matrix product of the imagined H100."""
    return 0.002 + n * k * (1e-9 + m * 4e-12)


def _write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)
