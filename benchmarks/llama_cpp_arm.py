"""llama.cpp through llama-cpp-python, in a Python of its own: ``llama_cpp_arm.py GGUF PROMPTS.json``. Base only, one after another."""

from __future__ import annotations

import json
import os
import sys
import time

from llama_cpp import Llama  # type: ignore[import-not-found]

TOKENS = 64


def main() -> None:
    model = Llama(model_path=sys.argv[1], n_ctx=1024, n_threads=os.cpu_count(), verbose=False, logits_all=False)
    with open(sys.argv[2], encoding="utf-8") as file:
        prompts = json.load(file)
    end = {model.token_eos(): -100.0}
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        texts = []
        for prompt in prompts:
            model.reset()
            answer = model.create_completion(prompt, max_tokens=TOKENS, temperature=0.0, logit_bias=end)
            texts.append(answer["choices"][0]["text"])
        print(json.dumps({"seconds": time.perf_counter() - started, "texts": texts}), flush=True)


if __name__ == "__main__":
    main()
