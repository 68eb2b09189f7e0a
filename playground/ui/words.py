"""What the page says in more than one place, or that a translator would want together."""

from __future__ import annotations

NAME = "Prompt or Tune"
LINE = "Is a good prompt enough, or should you fine-tune? Find out on your own examples."
OUR_SIDE = "Something went wrong on our side. It is written in the log; try again, or reload the page."

LETTERS = ("A", "B", "C", "D", "E", "F")
BASE_LABEL = "Base model"
OTHER_BASE = "another base"
WHOLE_MODEL = "A whole model of its own: it is loaded beside the base at the first question."

# Compare
HERO_TITLE = "Told, or trained?"
HERO_TEXT = (
    "A hospital wants every report in one format, signed the same way. Side A is told so in a careful prompt. "
    "Side B learned it from examples and gets no prompt."
)
HERO_ASK = "Ask the hospital example"
STORY_PLAY = "Play the whole story"
ASK = "Ask"
ASK_LABEL = "Ask every side the same thing"
EMPTY_QUESTION = "There is nothing to ask yet. Write a question in the box below, or ask the hospital example."
PROMPT_IDEA = (
    "A prompt instructs: quick to change, paid for in tokens at every call, and sometimes forgotten. "
    "Few-shot shows answered examples at each call and spends context on what training would learn once."
)
BASE_MISSING = "No base yet: see Device"
NO_EFFECT = "No measurable effect: this adapter answers exactly as the base does."
STILL_THINKING = "It was still thinking when the limit ended it. Let replies be longer, or turn thinking off."
STOPPED = "Stopped. What had arrived is kept."
STOPPED_EMPTY = "Stopped before anything arrived."

# Train
TRAIN_EMPTY = "Drop a file of examples, or start with one of ours."
EXAMPLES_TEXT = "What goes in, and the answer you want out. 50 good rows beat 500 careless ones."
TIME_TEXT = "A quick look teaches the form. Content takes about five times through your examples."
METHOD_TEXT = (
    "Full fine-tuning moves every weight. The others freeze the base and train a small part, "
    "like a clear sheet laid over a finished painting."
)
BAD_NONE = "Every row can be used."
RUN_NONE = "Nothing is training; Start begins a run."
GO_ON = "Go on from the last checkpoint"
START_AGAIN = "Start again from step 0"
HELD_BACK = "Those held out for the verdict stay here, and an import of what comes back names the verdict on them."
RUN_APART = "Runs in its own process. Close this tab if you like; the run goes on."
FIRST_EXAMPLES = "Choose examples first"
START = "Start training"

# Adapters
ADAPTERS_TEXT = (
    "One frozen base, many adapters. Switching picks another adapter for the next reply; nothing is reloaded."
)
ADAPTERS_EMPTY = "No adapters yet: train one or import a PEFT folder."
PICK_FIRST = "Choose an adapter in the list first."
GONE = "gone or not for this base: choose another"
TRAINED = "as it ended"

# Verdict
VERDICT_TITLE = "A new verdict"
VERDICT_TEXT = (
    "Every side answers the same examples that training has not seen. Then: what is better, by how much, how sure, and"
    " at what cost."
)
VERDICT_EMPTY = "No verdict yet: pick the sides and a held-out set, and measure."
VERDICT_EXAMPLES = "Choose examples to judge by first"
VERDICT_SEEN = "No row left that no tuned side may know"
VERDICT_SIDES = "Choose at least one side"
VERDICT_GONE = "A side that is chosen is not here any more. Choose its adapter and the sides again."
MEASURE = "Measure"
STOP_AND_KEEP = "Stop and keep what is measured"
MAKE_VERDICT = "Make it a verdict"
SITUATION_TEXT = "The figures are measured; what they are worth depends on you. Leave empty what you cannot say."
SHORT = 48
"""Letters that a button bears; a longer reason is in the Device panel."""

# Sidebar
NOW_EMPTY = "Nothing is running."
WAITING_EMPTY = "No one is waiting."
SHARING = (
    "Replies and a training run go on side by side when both fit. A run that needs the memory of an idle base takes its"
    " place; replies then wait for its end."
)

STATES = {
    "QUEUED": ("Waiting", "wait"),
    "RUNNING": ("Training", "live"),
    "MEASURING": ("Measuring", "live"),
    "STOPPING": ("Stopping", "live"),
    "DONE": ("Done", "ok"),
    "FAILED": ("Failed", "no"),
    "STOPPED": ("Stopped", "wait"),
    "CANCELLED": ("Cancelled", "wait"),
}
"""The state of a run, a race or a verdict: its name, and the kind of pill that shows it."""
LIVE = ("QUEUED", "RUNNING", "STOPPING")
COMPARE_IT = "Compare in chat"
HEAR_IT = "Chat with it as it learns"


def pane_empty(letter: str) -> str:
    return f"Ask below, and side {letter} answers here."


CHOICE_IDEA = (
    "Fine-tune when the format, tone or behaviour must hold every time, the same short request comes very often, or the"
    " prompt has outgrown the context. Keep the prompt when it already does the job, the examples are few or poor, or"
    " the task changes so often that training again costs more than it saves."
)
