"""The widgets of a run's settings on the Train tab: method options, aims, everything else, and the settings to take away."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.data.split import TEST, VALIDATION
from playground.methods.options import INIT_TEXT_MAX
from playground.ui import html, plan, recipe
from playground.ui.wiring import Dropdown, hidden_slot


def settings(method: Any, steps: int) -> dict[str, Any]:
    """``method`` is the one that is chosen first; choosing another sets its own learning rate and rank."""
    label = plan.settings_label(method.name, steps, method.learning_rate, method.rank)
    with gr.Column(elem_classes="folds"), gr.Accordion(label, open=False) as fold:
        with gr.Row():
            steps_box = gr.Number(steps, label="Steps", info="One step reads one batch.", precision=0, minimum=1, min_width=130)
            lr = gr.Number(
                method.learning_rate, label="Learning rate", info="How far each step moves.", step=0.0001, min_width=130
            )
            rank = gr.Number(
                method.rank or 0, label=method.rank_label, info=f"{method.rank_info} 0: the method's own.", precision=0, minimum=0,
                maximum=256, min_width=130,
            )  # fmt: skip
        with gr.Row():
            batch = gr.Number(8, label="Batch", info="Examples per step.", precision=0, minimum=1, maximum=256, min_width=130)
            tokens = gr.Number(2048, label="Longest example", info="Tokens; a longer prompt is cut at its start.", precision=0,
                               minimum=16, maximum=32768, min_width=130)  # fmt: skip
            seed = gr.Number(7, label="Seed", info="The same seed, the same run.", precision=0, minimum=0, min_width=130)
        with gr.Row():
            validation, test = (
                gr.Number(round(100 * share), label=label, info=info, precision=0, minimum=0, maximum=90, min_width=200)
                for share, label, info in (
                    (VALIDATION, "Held back to choose by, %", "For samples and the best checkpoint, from 10 rows on."),
                    (TEST, "Held back for the verdict, %", "Seen by nothing else, from 20 rows on."),
                )
            )
            early_stop = gr.Number(
                0, label="Stop early", info="After so many checkpoints without a better held-out loss; 0: never.", precision=0,
                minimum=0, min_width=200,
            )  # fmt: skip
    return {"fold": fold, "settings": [steps_box, lr, rank, batch, tokens, seed, validation, test], "early_stop": early_stop}


def options(method: Any) -> list[Any]:
    """One widget an option, in the order of ``plan.OPTIONS``; shown where the method has it."""
    return [
        gr.Checkbox(False, label="rsLoRA: high ranks learn as fast as low ones", visible="rslora" in method.options),
        gr.Checkbox(False, label="PiSSA: begin with the base's strongest directions", visible="pissa" in method.options),
        gr.Number(
            0, label="Layers", info="Train the last so many; 0: all weights.", precision=0, minimum=0, visible="layers" in method.options
        ),
        gr.Textbox(
            label="Virtual tokens begin as", placeholder="Tokens drawn by chance, or a text such as your best prompt",
            max_length=INIT_TEXT_MAX, visible="init_text" in method.options,
        ),
        gr.Radio(
            [("After attention and MLP (Houlsby)", "houlsby"), ("After the MLP (Pfeiffer)", "pfeiffer")], value="houlsby",
            label="Where bottlenecks stand", visible="placement" in method.options,
        ),
    ]  # fmt: skip


def aims() -> list[Any]:
    """What is learned, and what earns a reward."""
    objective = Dropdown(plan.aims_of("sft"), value="sft", label="What it learns", visible=False)
    rewards = gr.Textbox(
        label="What earns a reward, one a line", lines=2, visible=False,
        placeholder="ends-with:Reviewed by Dr. Sharma, json, regex:…, contains:…, max-words:60, or model=ID of a reward model",
    )  # fmt: skip
    return [objective, rewards]


def take_away() -> dict[str, Any]:
    """The fold with the settings in other forms, and the way back."""
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="folds"), gr.Accordion("Take these settings elsewhere, or bring some", open=False) as fold:
        parts["form"] = gr.Radio(recipe.FORMS, value="command", label="Form", container=False, show_label=False)
        parts["code"] = gr.Code(label="Settings", visible=False, interactive=False, wrap_lines=True, max_lines=24)
        with gr.Row(elem_classes="acts"):
            parts["code_file"] = gr.DownloadButton("Download", size="sm", visible=False)
            parts["bring"] = gr.UploadButton("Bring a settings file", size="sm", file_types=[".json"])
        gr.HTML(html.note("Axolotl and TRL read the good rows, which the Examples card hands out."))
        parts["code_error"] = hidden_slot()
    return parts | {"recipe": fold}
