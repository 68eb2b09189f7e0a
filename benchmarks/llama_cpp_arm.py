"""llama.cpp through llama-cpp-python, in a Python of its own: ``llama_cpp_arm.py GGUF``. Base only, one after
another, by the GGUF's own chat template."""

from __future__ import annotations

import json
import os
import sys
import time

from llama_cpp import Llama  # type: ignore[import-not-found]

TOKENS = 64


def main() -> None:
    model = Llama(model_path=sys.argv[1], n_ctx=1024, n_threads=os.cpu_count(), verbose=False, logits_all=False)
    end = {model.token_eos(): -100.0}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        texts = []
        for messages in json.loads(line):
            model.reset()
            answer = model.create_chat_completion(messages, max_tokens=TOKENS, temperature=0.0, logit_bias=end)
            texts.append(answer["choices"][0]["message"]["content"])
        print(json.dumps({"seconds": time.perf_counter() - started, "texts": texts}), flush=True)


if __name__ == "__main__":
    main()
