"""`python -m shiftdc_eval.backbones.bundled.smol_cli`: merge the small research model, or say what would be needed.

`make smol` calls it once after installing the base. With `--delta`, `--base` and `--out` it merges a delta that
is still being tried into a folder of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shiftdc_eval.core.errors import ShiftDCError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 when base or delta is missing or wrong."""
    from shiftdc_eval.backbones.bundled.smol_base import base_file
    from shiftdc_eval.backbones.bundled.smol_delta import load_delta
    from shiftdc_eval.backbones.bundled.smol_merge import DELTA, cached_folder, merge, revision_of

    parser = argparse.ArgumentParser(
        prog="python -m shiftdc_eval.backbones.bundled.smol_cli",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--delta", type=Path, default=DELTA, help="delta file; the packaged one by default")
    parser.add_argument("--base", type=Path, help="GGUF file; the installed package's by default")
    parser.add_argument("--out", type=Path, help="new folder; the user's cache by default")
    args = parser.parse_args(arguments)
    try:
        delta = load_delta(args.delta)
        if args.out is None:
            folder = cached_folder(args.delta, args.base)
        else:
            merge(args.base or base_file(), delta, args.out)
            folder = args.out
    except (ShiftDCError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    facts = ", ".join(f"{name} {value[:16]}" for name, value in sorted(delta.metadata.items()))
    print(f"{folder}\nrevision {revision_of(delta)}\ndelta: {facts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
