#!/usr/bin/env python3
"""GPU time by kernel of a command, from Nsight Compute's table of durations on standard input.

    ncu --csv --clock-control none --metrics gpu__time_duration.sum COMMAND | python kernel_times.py
"""

import collections
import csv
import re
import sys

lines = [line for line in sys.stdin if line.startswith('"')]
times, counts = collections.Counter(), collections.Counter()
for row in csv.DictReader(lines):
    value = float(row["Metric Value"].replace(",", ""))
    unit = {"nsecond": 1e-6, "ns": 1e-6, "usecond": 1e-3, "us": 1e-3, "msecond": 1.0, "ms": 1.0}[row["Metric Unit"]]
    name = re.sub(r"<.*|\(.*", "", row["Kernel Name"])
    times[name] += value * unit
    counts[name] += 1
print(f"{sum(counts.values())} kernels, {sum(times.values()):.1f} ms")
for name, milliseconds in times.most_common(25):
    print(f"{milliseconds:9.2f} ms {counts[name]:6} x {name}")
