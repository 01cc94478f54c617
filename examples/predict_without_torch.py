"""A classifier without torch: predict_without_torch.py FOLDER TEXT..., after `ulmfit-fast convert clf/ --to onnx`.

Needs onnxruntime, tokenizers and numpy. The text rules come with the folder, as Python.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), sys.argv[2:]
about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(folder / about["graph"])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
prepared = texts
if about["text_rules"]:  # of tokenizers of words: markers of case and repetition, which tokenizer.json cannot make
    sys.path.insert(0, str(folder))
    from text_rules import prepare

    prepared = [prepare(text) for text in texts]
encoded = tokenizer.encode_batch(prepared)
tokens = np.array([each.ids for each in encoded], np.int64)
lengths = np.array([sum(each.attention_mask) for each in encoded], np.int64)
(found,) = session.run([about["output"]], {"tokens": tokens, "lengths": lengths})
for text, row in zip(texts, found, strict=True):
    decide = {
        "highest": lambda p: about["labels"][p.argmax()],
        "median": lambda p: about["labels"][(p.cumsum(dtype=float)[:-1] < 0.5).sum()],
        "thresholds": lambda p: [about["labels"][i] for i in np.flatnonzero(p >= np.float32(about["thresholds"]))],
        "number": lambda p: float(p[0]),
    }[about["decision"]]
    print(json.dumps({"text": text, "prediction": decide(row), about["output"]: row.tolist()}))
