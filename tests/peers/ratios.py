"""How many times as fast: the ratios of a log of tests/bench.sh.

    ratios.py LOG

A heading `THING, WHO:` is followed by what WHO prints. Of each figure that several print the best is taken, because
whatever else a machine does only takes time; the last of those who print it is what the others are compared with.
"""

import re
import sys

HEADING = re.compile(r"^(.+), ([^,:]+):$")
RATE = re.compile(r"(?:^([a-z]+_\w+) | )([\d.]+) (images|texts|samples|tokens)/s")
PER_SECOND = re.compile(r"^(images)_per_second ([\d.]+)$")
SECONDS = re.compile(r"^(?:[a-z]+: [\d x]+: |([a-z][a-z, ]*) )([\d.]+) s\b")
STEP = re.compile(r"then ([\d.]+) ms (per step)")


def figures(line):
    """Named rates in a line; of times, the rate is what comes in one of them."""
    for name, rate, unit in RATE.findall(line):
        yield name or unit, float(rate)
    for name, rate in PER_SECOND.findall(line):
        yield name, float(rate)
    for name, seconds in SECONDS.findall(line):
        yield name or "all", 1 / float(seconds)
    for milliseconds, name in STEP.findall(line):
        yield name, 1 / float(milliseconds)


def ratios(lines):
    best, heading = {}, None
    for line in map(str.rstrip, lines):
        if match := HEADING.match(line):
            heading = match.groups()
        elif heading:
            thing, who = heading
            for name, rate in figures(line):
                rates = best.setdefault((thing, name), {})
                rates[who] = max(rate, rates.get(who, 0.0))
    for (thing, name), rates in best.items():
        *others, base = rates
        for who in others:
            yield f"{thing}, {name}: {who} {rates[who] / rates[base]:.2f} times {base}"


if __name__ == "__main__":
    with open(sys.argv[1]) as log:
        print("\n".join(ratios(log)))
