"""Measure variants against baselines: pinned to a core, interleaved, judged by median ratios.

A benchmark states its variants as functions and its claims as targets; this file does the rest.
Time: one process pinned to one core holds all variants and runs them in turn, so that whatever
slows the machine down slows neighbours alike. What counts is processor time, of all threads, so
that other work on the machine adds nothing; on one idle core it is the time on the clock. Each run
of a baseline is compared with the nearest runs of the variant before and after it; the ratio is the
median over all such pairs.
Memory: each variant runs in a process of its own, two at a time; what counts is how far the peak of
its resident memory lies above what it was after the imports, so model and work count and the
libraries do not.
What glibc's heap keeps of freed blocks moves that peak by a tenth from run to run; a benchmark that
asks what a step holds has freed blocks given back at once (`returns_blocks`), for all variants.
On an accelerator time is the clock's, taken when all kernels are done, and memory is the peak of
what torch holds there; the results file is `NAME_accelerator.json`.

Import it before torch: it sets the number of threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

# Libraries read these when they are first imported.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RESULTS = Path(__file__).parent / "results"

Work = Callable[[], object]
"""One run of a variant; what it returns keeps it from being skipped and is thrown away."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One claim: how a variant must compare with a baseline."""

    variant: str
    """What is judged."""
    baseline: str
    """What it is compared with."""
    bound: float | None
    """What the ratio must not pass; None only reports it."""
    is_speedup: bool = False
    """Whether the ratio is baseline ÷ variant and at least `bound`, instead of variant ÷ baseline
    and at most `bound`."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What one script measures."""

    name: str
    """Name of the results file."""
    variants: Mapping[str, Callable[[], Work]]
    """By name: loads what a variant needs and returns the work that is timed."""
    schedule: Sequence[str]
    """Order of the timed runs."""
    time_targets: Sequence[Target] = ()
    """Claims about time."""
    memory_targets: Sequence[Target] = ()
    """Claims about peak memory."""
    returns_blocks: bool = False
    """Whether freed blocks leave the process at once while memory is measured; it costs time, so
    times are taken without it."""
    extra_claims: Callable[[], list[dict[str, object]]] = list
    """Further claims, asked for after the last run."""
    settings: Mapping[str, object] | None = None
    """What was measured on, for the results file."""


def run(benchmark: Benchmark) -> None:
    """Measure, write `results/NAME.json`, print a table, and exit 1 where a target is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # how this file calls itself
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(peak_memory(benchmark.variants[arguments.memory_of])))
        return
    if device() != "cpu":
        print(f"  on {accelerator()}", file=sys.stderr, flush=True)
    memory = measure_memory(benchmark)
    pin_to_one_core()
    times = time_runs(benchmark.variants, benchmark.schedule) if benchmark.schedule else []
    claims = [
        claim("time", target, paired_ratio(times, target)) for target in benchmark.time_targets
    ] + [
        claim("peak memory", target, plain_ratio(memory, target))
        for target in benchmark.memory_targets
    ]
    report(
        benchmark.name if device() == "cpu" else f"{benchmark.name}_accelerator",
        claims + benchmark.extra_claims(),
        settings=benchmark.settings,
        details={
            "seconds": {name: [round(s, 3) for n, s in times if n == name] for name in dict(times)},
            "peak_bytes": memory,
        },
    )


def device() -> str:
    """Return where the variants compute."""
    from lm.devices import best_device

    return best_device()


def accelerator() -> str:
    """Return the accelerator's name."""
    import torch

    return str(torch.cuda.get_device_name())


def wait_for_kernels() -> None:
    """Wait until the accelerator, if there is one, has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pin_to_one_core() -> None:
    """Confine this process to the last core that it may use."""
    if device() != "cpu":
        return  # autograd launches its kernels from a thread of its own
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)


def time_runs(
    variants: Mapping[str, Callable[[], Work]], schedule: Sequence[str]
) -> list[tuple[str, float]]:
    """Load each variant, and time the runs in their order."""
    works = {name: variants[name]() for name in dict.fromkeys(schedule)}
    clock = time.process_time
    if device() != "cpu":
        clock = time.perf_counter
        for work in works.values():
            work()  # kernels are loaded and chosen when they are first wanted
    times = []
    for name in schedule:
        gc.collect()
        wait_for_kernels()
        start = clock()
        works[name]()
        wait_for_kernels()
        times.append((name, clock() - start))
        print(f"  {name}: {times[-1][1]:.2f} s", file=sys.stderr, flush=True)
    return times


def paired_ratio(times: Sequence[tuple[str, float]], target: Target) -> float:
    """Compare each baseline run with the variant's nearest before and after it; return the median.

    Each of the two makes a ratio of its own. With a mean of both, one run that was disturbed would
    stand in the ratios of two baseline runs out of two or three, and so in their median.
    """
    ratios = []
    for place, (name, seconds) in enumerate(times):
        if name != target.baseline:
            continue
        before = [s for n, s in times[:place] if n == target.variant][-1:]
        after = [s for n, s in times[place:] if n == target.variant][:1]
        ratios += [
            seconds / ours if target.is_speedup else ours / seconds for ours in before + after
        ]
    return statistics.median(ratios)


def plain_ratio(values: Mapping[str, float], target: Target) -> float:
    """Compare two single values."""
    ours, baseline = values[target.variant], values[target.baseline]
    return baseline / ours if target.is_speedup else ours / baseline


def claim(quantity: str, target: Target, ratio: float) -> dict[str, object]:
    """Return a claim with what was found, as it stands in the results file."""
    sign = ">=" if target.is_speedup else "<="
    is_met = target.bound is None or (
        ratio >= target.bound if target.is_speedup else ratio <= target.bound
    )
    return {
        "quantity": quantity,
        "variant": target.variant,
        "baseline": target.baseline,
        "ratio": round(ratio, 3),
        "target": "none" if target.bound is None else f"{sign} {target.bound:g}",
        "is_met": is_met,
    }


def peak_memory(prepare: Callable[[], Work]) -> int:
    """Return by how many bytes a variant's peak lies above what its imports need."""
    work = prepare()
    gc.collect()
    if device() != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    # The peak counts from here: reading a checkpoint may hold it twice, whichever the variant.
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _status_bytes("VmHWM") - IMPORTED_BYTES


def measure_memory(benchmark: Benchmark) -> dict[str, int]:
    """Measure what the memory targets speak of, two at a time: memory does not mind a neighbour."""
    targets = benchmark.memory_targets
    names = list(dict.fromkeys(name for t in targets for name in (t.baseline, t.variant)))
    measure = partial(memory_in_own_process, returns_blocks=benchmark.returns_blocks)
    with ThreadPoolExecutor(max_workers=2) as workers:
        return dict(zip(names, workers.map(measure, names), strict=True))


def memory_in_own_process(name: str, *, returns_blocks: bool) -> int:
    """Run this very script in another process for the memory of one variant."""
    command = [sys.executable, sys.argv[0], "--memory-of", name]
    environment = dict(os.environ)
    if returns_blocks:
        environment |= _STEADY_HEAP
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"Measuring the memory of {name!r} failed:\n{done.stderr}")
    peak = int(done.stdout.splitlines()[-1])
    print(f"  {name}: {peak / 2**20:.0f} MiB", file=sys.stderr, flush=True)
    return peak


def report(
    name: str,
    claims: Sequence[Mapping[str, object]],
    *,
    settings: Mapping[str, object] | None,
    details: Mapping[str, object],
) -> None:
    """Write the results file, print the table, and exit 1 where a target is missed."""
    from rich.console import Console
    from rich.table import Table

    RESULTS.mkdir(exist_ok=True)
    content = {
        "claims": list(claims),
        "settings": dict(settings or {}),
        "machine": machine(),
        **details,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table = Table("quantity", "variant", "baseline", "ratio", "target", "", title=name)
    for item in claims:
        table.add_row(
            str(item["quantity"]),
            str(item["variant"]),
            str(item["baseline"]),
            f"{item['ratio']}",
            str(item["target"]),
            "" if item["target"] == "none" else "met" if item["is_met"] else "NOT MET",
        )
    Console(width=110).print(table)
    print(
        f"Written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}."
    )
    if not all(item["is_met"] for item in claims):
        sys.exit(1)


def machine() -> dict[str, object]:
    """Say on what was measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    libraries = ["torch", "transformers", "peft"]
    found = {"processor": model[1] if model else platform.machine(), "cores_used": 1}
    if device() == "cpu":
        libraries.append("openvino-genai")
    else:
        found = {"accelerator": accelerator()}
    return {
        **found,
        "python": platform.python_version(),
        **{library: metadata.version(library) for library in libraries},
    }


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None, f"no {field} in /proc/self/status"
    return 1024 * int(found[1])


_STEADY_HEAP = {
    "MALLOC_ARENA_MAX": "1",  # autograd's thread would otherwise fray a heap of its own
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_MMAP_THRESHOLD_": str(2**18),
}
"""Lets two runs of one variant differ by a thousandth in memory, where they differ by a tenth."""
IMPORTED_BYTES = 0
"""Resident memory after the imports of the script; set by `imports_are_done`."""


def imports_are_done() -> None:
    """Take note of the memory that the libraries need; call it after the last import."""
    global IMPORTED_BYTES
    IMPORTED_BYTES = _status_bytes("VmRSS")
