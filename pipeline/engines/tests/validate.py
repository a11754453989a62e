"""Reads rendered objects with other programs' parsers and schemas: validate.py YAML JSON

Each that is not installed is skipped aloud: pip install pyyaml kubernetes-validate kubeflow-trainer-api
"""
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    text = file.read()
with open(sys.argv[2], encoding="utf-8") as file:
    wanted = json.load(file)

try:
    import yaml
except ImportError:
    print("skipped: no pyyaml")
    sys.exit(0)
found = list(yaml.safe_load_all(text))
assert found == wanted, "the YAML does not say what the objects say"
print(f"pyyaml: {len(found)} objects")

try:
    import kubernetes_validate
except ImportError:
    print("skipped: no kubernetes-validate")
else:
    versions = ["1.33", "1.34", "1.35", "1.36", "1.37"]
    for one in (one for one in found if one["kind"] != "TrainJob"):
        for version in versions:
            kubernetes_validate.validate(one, version, strict=True)
    print(f"kubernetes-validate --strict: {', '.join(versions)}")

try:
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
except ImportError:
    print("skipped: no kubeflow-trainer-api")
else:
    for one in (one for one in found if one["kind"] == "TrainJob"):
        read = TrainerV1alpha1TrainJob.from_dict(one).to_dict()
        assert read == one, f"a TrainJob loses something:\n{read}\n{one}"
    print("kubeflow-trainer-api: the TrainJob is read whole")
