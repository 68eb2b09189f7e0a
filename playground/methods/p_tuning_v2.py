"""P-tuning v2: keys and values of every layer, learned directly."""

from __future__ import annotations

from playground.methods.prefix import Prefix


class PTuningV2(Prefix):
    name = "p-tuning-v2"
    label = "P-tuning v2"
    cost = "the same without the network"
    explain = (
        "P-tuning v2 learns the keys and values before the text directly, as deep prompts in every layer. "
        "They begin as those of real tokens, so that the base is not thrown off its way at the start."
    )
    summary = "P-tuning v2: learned keys and values before the text, in every layer, trained directly"
    paper = "Liu et al. 2021, arXiv:2110.07602"
    order = 7
    # hospital_reports, 20 steps of 4 rows: 1e-1 loss 0.56, 0 of 40 general questions; 4e-2 0.73, 4 of 40; 1e-2 is too
    # slow.
    rates = (6e-2, 4e-2, 2e-2, 1e-2)
    options = ("init_text",)
    pace = 1.0
    projected = False
    starts_as_tokens = True
