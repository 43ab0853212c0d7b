"""What is wrong between machines: other versions, clocks apart, a disk that is not shared, one slower than the others. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from ...core.checkpoint.storage import in_words
from .finding import Finding, Level

Facts = Mapping[str, Any]
MOST_SKEW_SECONDS = 1.0
SLOW = 0.85  # of the median
RATES = {"matmul_flops": "matrix products", "copy_bytes": "memory", "all_reduce_bytes": "all-reduce", "write_bytes": "disk"}


def findings(surveys: Sequence[Facts], asked: tuple[float, float], *, expected_all_reduce: float = 0.0) -> list[Finding]:
    """Of all machines together.

    Args:
        surveys: one of each machine.
        asked: Unix time before the first was asked, and after the last had answered.
        expected_all_reduce: bytes a second; 0: nothing is expected.
    """
    found = [*_speeds(surveys, expected_all_reduce)]
    if len(surveys) > 1:
        found += [*_versions(surveys), *_clocks(surveys, asked), *_shared(surveys), *_slow(surveys)]
    return found


def _versions(surveys: Sequence[Facts]) -> Iterator[Finding]:
    wrong = False
    names = [name for name in surveys[0]["versions"] if name not in ("interpreter", "kernel")]
    for name in [*names, "code"]:
        seen = {each["host"]: each["code"] if name == "code" else each["versions"].get(name, "") for each in surveys}
        usual = Counter(seen.values()).most_common(1)[0][0]
        odd = tuple(host for host, value in seen.items() if value != usual)
        if odd:
            wrong = True
            named = ", ".join(f"{host} has {seen[host]}" for host in odd[:5])
            yield Finding("same versions", Level.error, f"{name}: {named}; the others have {usual}",
                          "install the same versions there, or put the environment on a shared disk", odd)
    if not wrong:
        yield Finding("same versions", Level.ok, f"{len(surveys)} machines run the same code and packages")


def _clocks(surveys: Sequence[Facts], asked: tuple[float, float]) -> Iterator[Finding]:
    off = {each["host"]: max(asked[0] - each["clock"], each["clock"] - asked[1], 0.0) for each in surveys}
    wrong = tuple(host for host, seconds in off.items() if seconds > MOST_SKEW_SECONDS)
    if wrong:
        named = ", ".join(f"{host} by at least {off[host]:.1f} s" for host in wrong[:5])
        yield Finding("clocks", Level.warning, f"off: {named}", "let chrony or ntpd run there", wrong)
    else:
        yield Finding("clocks", Level.ok, f"no clock is found to be off by more than {MOST_SKEW_SECONDS:.0f} s")


def _shared(surveys: Sequence[Facts]) -> Iterator[Finding]:
    blind = tuple(each["host"] for each in surveys if not each["token_seen"])
    folder = surveys[0]["disk"]["directory"]
    if blind:
        yield Finding("shared disk", Level.error, f"{', '.join(blind[:5])} does not see what is written beside {folder}",
                      "set run.directory to a file system that all machines mount", blind)
    else:
        yield Finding("shared disk", Level.ok, f"every machine sees what is written beside {folder}")


def _speeds(surveys: Sequence[Facts], expected: float) -> Iterator[Finding]:
    for each in surveys:
        speed, here = each["speed"], (each["host"],)
        if "error" in speed:
            yield Finding("speed", Level.error, f"cannot be measured: {speed['error']}", "see the message; ranks would fail alike", here)
        elif speed:
            words = (f"{speed['ranks']} ranks, each: {speed['matmul_flops'] / 1e12:.3g} TFLOP/s, memory {in_words(speed['copy_bytes'])}/s, "
                     f"all-reduce {in_words(speed['all_reduce_bytes'])}/s, disk {in_words(speed['write_bytes'])}/s")
            low = expected and speed["all_reduce_bytes"] < SLOW * expected
            yield Finding("speed", Level.warning if low else Level.ok, words + (f"; expected {in_words(expected)}/s" if low else ""),
                          "see NCCL_DEBUG=INFO for the path that it takes" if low else "", here)


def _slow(surveys: Sequence[Facts]) -> Iterator[Finding]:
    measured = [each for each in surveys if each["speed"] and "error" not in each["speed"]]
    for name, words in RATES.items() if len(measured) > 1 else ():
        rates = {each["host"]: each["speed"][name] for each in measured}
        middle = median(rates.values())
        slow = tuple(host for host, rate in rates.items() if rate < SLOW * middle)
        if slow:
            named = ", ".join(f"{host} at {rates[host] / middle:.0%}" for host in slow[:5])
            yield Finding("slow machine", Level.warning, f"{words}: {named} of the median",
                          "leave it out (cluster.exclude, or the hostfile), or see its clocks, its heat and who else works there", slow)
