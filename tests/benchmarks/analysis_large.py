"""Time and memory of analysing 2,000 recorded items x 32 layers x 4,096: `python tests/benchmarks/analysis_large.py`.

Writes random activations with a planted direction (the conditions of a real recording, about 4.2 GB) to a
temporary folder unless `--folder` holds them already, then analyses them in a process of its own and prints
its seconds and its peak memory as the operating system counts it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

CONDITIONS = ["text", "text_caption", "image", "blank", "noise", "image_online", "image_paper", "image_cmrm"]

WHOLE = "whole"
"""Name of the file that says that a recording was written to its end."""


def write(folder: Path, items: int, layers: int, hidden: int) -> None:
    """A recording of random activations; harmful items lie on one side of a direction."""
    from synthetic import save_direction

    from shiftdc_eval.analysis import recording_file as shards
    from shiftdc_eval.analysis.recording_file import ItemRecord, Manifest

    records = [
        ItemRecord(
            id=f"made:{at}",
            task="made",
            role="harmful" if at % 2 else "benign",
            question=f"q{at // 4}-{at % 2}",
            scenario=f"kind {at // 4 % 4}",
        )
        for at in range(items)
    ]
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((layers, hidden)).astype(np.float32)
    manifest = Manifest(
        model="made",
        revision="0",
        template_sha256="0" * 64,
        direction_sha256=save_direction(folder / "direction.safetensors", direction).sha256,
        contrast_sha256="0" * 64,
        dtype="float32",
        layers=layers,
        hidden=hidden,
        calibrated_layers=f"{layers // 2}-{layers - 1}",
        conditions=CONDITIONS,
        answered=["text", "image", "image_online", "image_paper", "image_cmrm"],
        max_new_tokens=1,
        caption_max_new_tokens=1,
        shard_items=64,
        items=records,
    )
    shards.create(folder, manifest)
    for index, part in enumerate(manifest.shards):
        sign = np.array([-0.05 if at % 2 else 0.05 for at in part], dtype=np.float32)
        activations = {
            name: rng.standard_normal((len(part), layers, hidden), dtype=np.float32)
            + sign[:, None, None] * direction
            for name in CONDITIONS
        }
        rows = [
            {
                "id": records[at].id,
                "request": "made",
                "answers": dict.fromkeys(manifest.answered, "I'm sorry." if at % 3 else "take it"),
            }
            for at in part
        ]
        shards.write_shard(folder, manifest, index, activations, rows)
    (folder / WHOLE).touch()


def analyse(folder: Path) -> None:
    """What the benchmark times."""
    from shiftdc_eval.analysis.report import analyse as run

    run(folder)


def main() -> None:
    """Write, then time a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the recording lies or is written")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--threads", default="2", help="threads of the linear algebra")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / WHOLE).is_file():
            begun = time.perf_counter()
            write(folder, args.items, args.layers, args.hidden)
            size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
            print(f"written: {size:.1f} GiB in {time.perf_counter() - begun:.0f} s")
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import analysis_large; "
        code += f"analysis_large.analyse(analysis_large.Path({str(folder)!r}))"
        begun = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": args.threads, "TQDM_DISABLE": "1"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        seconds = time.perf_counter() - begun
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{args.items} items x {args.layers} layers x {args.hidden}: {seconds:.1f} s wall, "
            f"{usage.ru_utime + usage.ru_stime:.1f} s of processor time, peak {usage.ru_maxrss / 2**20:.2f} GiB"
        )


if __name__ == "__main__":
    main()
