"""The benchmark's named peer: the published algorithm in PyTorch (tests/goldens/oracle.py), on the same inputs.

    python tests/bench/peer.py BASE FIXTURES PASSES

Prints seconds as JSON. Every core that PyTorch takes is its; the forward pass is in f32, Gram matrices and solves in f64.
"""

import json
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "goldens"))

import oracle
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, BertModel

base, fixtures, passes = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
tasks = []
for name in ["emoint", "emotion-cause", "isear"]:
    ids = load_file(fixtures / f"{name}.ids.safetensors")
    labels = len(json.loads((fixtures / name / "labels.json").read_text()))
    model = BertForSequenceClassification.from_pretrained(base, num_labels=labels)
    batch = oracle.Batch(ids["input_ids"], ids["attention_mask"], ids["token_type_ids"])
    tasks.append(oracle.Task(batch, oracle.peft_deltas(model, fixtures / name)))
encoder = BertModel.from_pretrained(base).eval()
best = float("inf")
for _ in range(2):
    begin = time.perf_counter()
    oracle.iteris(encoder, tasks, oracle.Options(schedule="iterate", max_iter=passes))
    best = min(best, time.perf_counter() - begin)
print(json.dumps({"total": best, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
