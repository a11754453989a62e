"""Writes pickles.txt: meta records as Python pickles them, one `name protocol hex` per line.

python3 make_pickles.py > pickles.txt
"""

import os
import pickle

ROAD = {"highway": "residential", "name": "Stra\u00dfe \U0001f6b2 \\u0041\nline 2"}
RECORDS = {
    "full": {
        "box": (24.9384, 60.1699, 24.9392, 60.1703),
        "time": (2019, 7, 14, 9, 55),
        "center_tags": {"building": "yes", "amenity": "school"},
        # One dict twice: a memo reference.
        "surrounding_tags": [
            ROAD,
            ROAD,
            {"lanes": 2, "width": 3.5, "bridge": True, "tunnel": False, "layer": -1, "ref": None,
             "id": 1 << 40, "height": float("nan"), 7: "key"},
        ],
        "extra": [1, (2,), {}],
    },
    "bbox": {
        "bbox": [-4, 40, -3, 41],
        "time": (2021, 12, 31),
        "center_tags": {},
        "surrounding_tags": [],
    },
    "year": {
        "box": (13.0, 52.0, 13.5, 52.5),
        "time": 2018,
        "center_tags": {"landuse": "farmland" * 40},
        "surrounding_tags": [{f"key{i}": f"value {i % 7}"} for i in range(300)],
    },
}


class Command:
    def __reduce__(self):
        return (os.system, ("echo harm",))


class Plain:
    def __init__(self):
        self.box = (0, 0, 1, 1)


for protocol in range(6):
    for name, record in RECORDS.items():
        print(name, protocol, pickle.dumps(record, protocol).hex())
    for name, value in [("command", Command()), ("object", Plain())]:
        record = RECORDS["bbox"] | {"center_tags": {"building": value}}
        print(name, protocol, pickle.dumps(record, protocol).hex())
print("set", 4, pickle.dumps({"center_tags": {1}}, 4).hex())
