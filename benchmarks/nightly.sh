#!/usr/bin/env bash
# Everything that is too long for the gate: the soak matrices, then the structure and the quick benchmarks. About three hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
export CI=true
pytest -n0 -m soak
python benchmarks/structure.py --trace
python benchmarks/check.py
python benchmarks/beside.py
