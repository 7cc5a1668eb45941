"""Summarize what was measured of the variants of a training step."""

import statistics

from benchmarks.steps import Bench, Variant
from qa.model.memory import GIB

FIRST_STEPS = 100


def summarize(bench: Bench, rows: list[Variant]) -> list[dict]:
    """Return median, lowest and highest over the rounds; speed-ups are ratios within a round.

    The planner's error is that of its estimate for the largest batch that was drawn, against the memory of tensors and
    against what the allocator reserved for them.
    """
    base = rows[0].seconds_per_window
    results = []
    for variant in rows:
        row = {"name": variant.name, "failed": variant.failed, "planned_gib": bench.planned(variant) / GIB}
        width = int(bench.widths(variant, bench.longest(variant)).max())
        row |= {"largest_batch": f"{variant.batch} x {width}", "largest_gib": bench.planned(variant, width) / GIB}
        row |= {"batch": f"{variant.batch} x {variant.accumulation}", "recomputed": variant.recompute}
        row |= {"padding": bench.padding(variant)}
        if variant.args.torch_compile:
            row |= {"lengths": variant.batch_lengths, "compile_seconds": variant.warm_up}
        if times := variant.seconds_per_window:
            row |= {"examples_per_second": 1 / statistics.median(times)}
            row |= {"slowest": 1 / max(times), "fastest": 1 / min(times), "rounds": len(times)}
            row |= {"tokens_per_second": row["examples_per_second"] * float(bench.lengths.mean())}
            row |= {"share_of_matmul": statistics.median(variant.share)}
            if variant.args.torch_compile:
                row |= {f"first_{FIRST_STEPS}_steps_seconds": variant.first_steps(FIRST_STEPS)}
            if ratios := [theirs / ours for theirs, ours in zip(base, times, strict=False)]:
                row |= {"speedup": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        if variant.peak:
            row |= {"peak_gib": variant.peak / GIB, "reserved_gib": variant.reserved / GIB}
            row |= {"planner_error": row["largest_gib"] / row["peak_gib"] - 1}
            row |= {"planner_error_reserved": row["largest_gib"] / row["reserved_gib"] - 1}
        results.append(row)
    return results


def as_table(results: list[dict]) -> str:
    """Return the results as a Markdown table."""
    names = (
        "variant",
        "batch",
        "padding",
        "examples/s (lowest to highest)",
        "real tokens/s",
        "speed-up",
        "share of matmul",
    )
    memory = "planned memory", "largest batch", "its plan", "allocated (error)", "reserved (error)"
    lines = [f"| {' | '.join(names + memory)} |", "|---" * len(names + memory) + "|"]
    for row in results:
        if "examples_per_second" not in row:
            lines.append(
                f"| {row['name']} | {row['batch']} | {row['failed']} | | | | | {row['planned_gib']:.2f} GiB | | | | |"
            )
            continue
        speed = f"{row['examples_per_second']:.2f} ({row['slowest']:.2f} to {row['fastest']:.2f})"
        times = f"{row['speedup']:.2f} ({row['least']:.2f} to {row['most']:.2f})" if "speedup" in row else ""
        cells = [row["name"], row["batch"], f"{row['padding']:.1%}", speed, f"{row['tokens_per_second']:.0f}", times]
        cells.append(f"{row['share_of_matmul']:.0%}")
        cells += [f"{row['planned_gib']:.2f} GiB", row["largest_batch"], f"{row['largest_gib']:.2f} GiB"]
        if "peak_gib" in row:
            cells.append(f"{row['peak_gib']:.2f} GiB ({row['planner_error']:+.0%})")
            cells.append(f"{row['reserved_gib']:.2f} GiB ({row['planner_error_reserved']:+.0%})")
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def compilation_times(results: list[dict]) -> list[str]:
    """Return a line for each compiled variant: the time until it has made its first steps, and its speed after them."""
    return [
        f"{row['name']}: {row['compile_seconds']:.0f} s to compile, {row[key]:.0f} s for the first {FIRST_STEPS} steps,"
        f" then {row['examples_per_second']:.2f} examples/s"
        for row in results
        if (key := f"first_{FIRST_STEPS}_steps_seconds") in row
    ]
