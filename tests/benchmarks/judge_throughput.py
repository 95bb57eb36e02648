"""How near the LLM judge comes to the ideal throughput. Run: python tests/benchmarks/judge_throughput.py

1,000 judgements against a loopback server (a process of its own) that answers after 200 ms and refuses more
than 64 requests at once. Ideal: ceil(1000 / 64) rounds of 200 ms.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

ITEMS, LATENCY, LIMIT, TARGET = 1000, 0.2, 64, 1.3


def serve(pipe: Connection) -> None:
    """Run the server until told to stop, then say what it saw."""
    from judge_server import JudgeServer

    with JudgeServer(latency=LATENCY, limit=LIMIT) as server:
        pipe.send(server.url)
        pipe.recv()
        pipe.send((len(server.seen), server.peak))


def main() -> int:
    """Print the measured seconds, the processor's among them, and their ratio to the ideal."""
    from shiftdc_eval.judges import Item, get_judge

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    url = ours.recv()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SHIFTDC_CACHE"] = cache
        judge = get_judge(f"llm_figstep:model=m;base_url={url};concurrency={LIMIT}")
        items = [Item(f"i{number}", "a request", f"Answer {number}.") for number in range(ITEMS)]
        start, worked = time.perf_counter(), time.process_time()
        verdicts = judge.judge(items)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    ours.send("stop")
    requests, peak = ours.recv()
    process.join(10)
    ideal = math.ceil(ITEMS / LIMIT) * LATENCY
    result = {
        "judgements": sum(verdict.scored for verdict in verdicts),
        "requests": requests,
        "peak_concurrent": peak,
        "seconds": round(seconds, 3),
        "processor_seconds": round(worked, 3),
        "ideal_seconds": round(ideal, 3),
        "ratio": round(seconds / ideal, 3),
        "target_ratio": TARGET,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))
    return 0 if seconds < TARGET * ideal else 1


if __name__ == "__main__":
    sys.exit(main())
