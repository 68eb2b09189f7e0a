"""Writes support_json.jsonl, support_json_heldout.jsonl and support_json_prompt.txt: a customer's mail in, one line of
JSON out.

Shop, customers and orders are invented. The last wording of each matter, the last greeting and the last closing words
are
kept for the held-out rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from _write import Row, capital, deal, write_set

SEED = 21
TRAIN_ROWS, HELDOUT_ROWS = 256, 120

PROMPT = """
You turn a customer's mail into one line of JSON. Answer with the JSON object only: no code fence, no explanation. Use
exactly these five keys in this order:
"category": one of "billing", "delivery", "technical", "account", "returns"
"product": the product named in the mail, in lower case
"order_id": the order number, such as "A-12345", or null if the mail gives none
"urgency": "high" if the customer presses for time or is in danger, "low" if the customer says there is no hurry, else "medium"
"summary": the matter in at most eight words
"""

ELECTRIC = "kettle|toaster|desk lamp|coffee grinder|hand mixer|food processor|hair dryer|espresso machine"
MOTOR = "coffee grinder|hand mixer|food processor|hair dryer|table fan"
SMART = "smart speaker|robot vacuum|fitness watch|security camera|wireless printer|smart thermostat"
BATTERY = "robot vacuum|fitness watch|security camera|electric toothbrush|cordless drill"
WEAR = "rain jacket|wool coat|linen shirt|denim skirt|running vest|leather belt|winter hat"
HARD = "bookshelf|garden chair|picture frame|tea set|bedside table|wall clock"
HOME = f"{HARD}|bath mat|floor rug"
GOODS = f"{ELECTRIC}|{SMART}|{WEAR}|{HOME}"
LOGIN = "customer account|mobile app"


@dataclass(frozen=True)
class Matter:
    """One thing customers write about: {p} is the product, {a} the product with a or an."""

    category: str
    products: str  # separated by "|", as the wordings
    summary: str
    wordings: str  # the last one is kept for the held-out rows
    danger: bool = False  # always of high urgency
    order: float = 0.7  # how often the mail gives an order number


MATTERS = (
    Matter(
        "billing",
        GOODS,
        "Charged twice for the {p}",
        "I was charged twice for the {p}.|My card shows two payments for one {p}.|"
        "You took the money for the {p} two times.|"
        "There are two identical charges for {a} on my statement.|"
        "The same amount left my bank account twice although I only bought one {p}.",
    ),
    Matter(
        "billing",
        GOODS,
        "Refund for the {p} is missing",
        "I sent the {p} back a month ago and still have no refund.|My refund for the {p} has not arrived.|"
        "You promised my money back for the {p}, but nothing has come.|Where is the refund for the {p} I returned?|"
        "You confirmed that you received my returned {p}, yet I have not seen my money.",
    ),
    Matter(
        "billing",
        GOODS,
        "Asks for an invoice for the {p}",
        "Please send me an invoice for the {p}.|I need a receipt for the {p} for my records.|"
        "There was no invoice in the box with the {p}.|Could you mail me the bill for the {p} as a PDF?|"
        "I keep all my bills, so I need one for the {p} as well.",
    ),
    Matter(
        "billing",
        GOODS,
        "Charged too much for the {p}",
        "The {p} cost more at checkout than on the product page.|"
        "I paid 10 euros more for the {p} than the price you advertise.|"
        "You billed me the wrong price for the {p}.|The amount on my bill for the {p} is too high.|"
        "On your site the {p} is cheaper than what you took from my card.",
    ),
    Matter(
        "billing",
        GOODS,
        "Discount missing on the {p}",
        "My discount code was not applied to the {p}.|I paid full price for the {p} although I entered a voucher.|"
        "The 15 percent discount is missing from my bill for the {p}.|"
        "My voucher was valid, but the {p} was not reduced.|"
        "The newsletter promised me a reduced price, yet the {p} was billed in full.",
    ),
    Matter(
        "billing",
        GOODS,
        "Payment for the {p} fails",
        "My card is declined when I try to pay for the {p}.|The payment page shows an error when I buy the {p}.|"
        "I cannot pay for the {p}, the checkout stops at the last step.|"
        "Paying for the {p} by bank transfer does not work.|"
        "Three times now your checkout has refused my payment for the {p}.",
        order=0.0,
    ),
    Matter(
        "delivery",
        GOODS,
        "The {p} has not arrived",
        "My {p} should have been here last week and has not come.|I am still waiting for the {p}.|"
        "The {p} I ordered three weeks ago never arrived.|Where is my {p}?|"
        "It has been a fortnight and there is no sign of my {p}.",
    ),
    Matter(
        "delivery",
        f"{ELECTRIC}|{SMART}|{HARD}",
        "Parcel with the {p} was damaged",
        "The parcel with the {p} arrived crushed.|The courier delivered the {p} in a torn, wet box.|"
        "The box was open and the {p} is scratched from the journey.|My {p} was broken in transit.|"
        "The driver dropped the package, and now the {p} has a dent.",
    ),
    Matter(
        "delivery",
        GOODS,
        "No tracking news for the {p}",
        "The tracking for my {p} has not changed for six days.|The tracking link for the {p} does not show anything.|"
        "I have no tracking number for the {p}.|The courier's page does not know my parcel with the {p}.|"
        "For days the shipment status of the {p} has said only that a label was made.",
    ),
    Matter(
        "delivery",
        GOODS,
        "Wants a new address for the {p}",
        "I gave the wrong street for the {p}, please correct it.|"
        "Please send the {p} to my office and not to my home.|"
        "I have moved, can the {p} go to my new address?|The house number for the delivery of the {p} is wrong.|"
        "Can you still change where the {p} is going? I typed my old address.",
    ),
    Matter(
        "delivery",
        GOODS,
        "The {p} is marked delivered but missing",
        "The {p} is marked as delivered, but I got nothing.|"
        "Your courier says the {p} was handed over, but nobody was at home.|"
        "It says my {p} was left at the door. There is no parcel.|"
        "I received a delivery notice for the {p} but no package.|"
        "According to the courier I signed for the {p}. I did not, and I do not have it.",
    ),
    Matter(
        "delivery",
        GOODS,
        "Wants a later delivery of the {p}",
        "I am on holiday, please deliver the {p} two weeks later.|"
        "Can you hold the {p} back until the end of the month?|"
        "Please do not send the {p} before the 20th.|Could the {p} come next week and not this week?|"
        "We will be away when the {p} is due, so a later date would suit us better.",
    ),
    Matter(
        "technical",
        f"{ELECTRIC}|{SMART}",
        "The {p} does not turn on",
        "My {p} does not turn on any more.|The {p} is dead, no light, nothing.|"
        "I press the button and the {p} does nothing.|"
        "The new {p} will not start.|Since yesterday there is no sign of life from my {p}.",
    ),
    Matter(
        "technical",
        SMART,
        "The {p} does not connect to Wi-Fi",
        "My {p} cannot find the Wi-Fi.|The {p} keeps losing its wireless connection.|"
        "The {p} does not connect to my router.|"
        "Since I changed my router the {p} stays offline.|"
        "I typed the network password five times and the {p} still will not go online.",
    ),
    Matter(
        "technical",
        ELECTRIC,
        "The {p} is dangerous to use",
        "There were sparks when I plugged in the {p}.|Smoke came out of my {p}.|"
        "The plug of the {p} got so hot that it melted.|"
        "The {p} gave me an electric shock.|My {p} smells of burning and threw sparks across the room.",
        danger=True,
    ),
    Matter(
        "technical",
        BATTERY,
        "Battery of the {p} drains too fast",
        "The battery of my {p} is empty after an hour.|The {p} does not hold its charge.|"
        "My {p} needs charging three times a day.|"
        "Since last month the {p} runs for only ten minutes on a full battery.|"
        "Even after a night on the charger the {p} dies almost at once.",
    ),
    Matter(
        "technical",
        SMART,
        "Update of the {p} fails",
        "The update of my {p} stops at 40 percent.|After the latest update the {p} restarts again and again.|"
        "My {p} says that the software update failed.|I cannot install the new version on my {p}.|"
        "The {p} has been stuck on the update screen since last night.",
    ),
    Matter(
        "technical",
        MOTOR,
        "The {p} is unusually loud",
        "My {p} makes a terrible noise.|The {p} rattles loudly when it runs.|There is a grinding sound from the {p}.|"
        "The {p} is twice as loud as when it was new.|"
        "Whenever I use the {p} it screeches so much that the dog hides.",
    ),
    Matter(
        "account",
        LOGIN,
        "Cannot log in to the {p}",
        "I cannot log in to my {p}.|The {p} says my password is wrong, but it is not.|I am locked out of my {p}.|"
        "The {p} does not accept my mail address and password.|"
        "Every time I sign in to the {p} I land on the start page again.",
        order=0.1,
    ),
    Matter(
        "account",
        LOGIN,
        "Password reset of the {p} fails",
        "I asked for a new password for the {p} and no mail came.|The reset link for my {p} has expired.|"
        "The password reset of the {p} does not work.|I do not receive the code to reset my password for the {p}.|"
        "I forgot the password of my {p}, and your reset message never reaches me.",
        order=0.0,
    ),
    Matter(
        "account",
        "customer account|loyalty card",
        "Wants new contact data on the {p}",
        "I have a new mail address, please change it on my {p}.|Please update the phone number on my {p}.|"
        "My name has changed, can you correct it on my {p}?|How do I change the address stored on my {p}?|"
        "I got married and need my new surname on my {p}.",
        order=0.1,
    ),
    Matter(
        "account",
        "customer account|loyalty card|mobile app",
        "Wants data of the {p} deleted",
        "Please delete my {p} and all my data.|I want to close my {p}.|"
        "Please remove everything you store about me for the {p}.|"
        "I no longer need the {p}, please erase my data.|"
        "Under data protection law I ask you to erase what is linked to my {p}.",
        order=0.0,
    ),
    Matter(
        "account",
        "loyalty card|mobile app",
        "Points missing on the {p}",
        "My points are missing on the {p}.|I bought something last week and the {p} shows no new points.|"
        "The {p} shows zero points although I had 300.|The points for my last order were not added to my {p}.|"
        "I collected points all year, and now the {p} says I have none.",
        order=0.6,
    ),
    Matter(
        "account",
        "gift card",
        "Code of the {p} is rejected",
        "The code on my {p} is not accepted.|Your shop says that my {p} is invalid.|"
        "I cannot redeem the {p} I got for my birthday.|"
        "The {p} says it is already used, but I never used it.|"
        "I scratched off the number of the {p} and the site rejects it.",
        order=0.2,
    ),
    Matter(
        "returns",
        GOODS,
        "Wants to return the {p}",
        "I do not like the {p} and want to return it.|I would like to send back the {p}.|"
        "The {p} is not for me, how do I return it?|I changed my mind about the {p} and want my money back.|"
        "The {p} is not what I imagined, so I would rather give it back.",
    ),
    Matter(
        "returns",
        WEAR,
        "Wants the {p} in another size",
        "The {p} is too small, can I swap it?|I need the {p} one size larger.|"
        "The {p} is much too big for me, please exchange it.|"
        "The {p} does not fit, I would like another size.|I ordered the {p} in M and should have taken L.",
    ),
    Matter(
        "returns",
        GOODS,
        "Received another article than the {p}",
        "I ordered {a} and got something else.|You sent me the wrong article, I had ordered {a}.|"
        "The box did not contain the {p} I bought.|Instead of the {p} there was a different product in the parcel.|"
        "Somebody mixed up my parcel: it should hold {a} but does not.",
    ),
    Matter(
        "returns",
        f"{WEAR}|{HOME}",
        "Received the {p} in the wrong colour",
        "The {p} came in blue, I had ordered green.|I got the {p} in the wrong colour.|"
        "The {p} is red and not grey as I ordered.|"
        "You sent a black {p}, but I chose the white one.|The colour of the {p} is not the one I picked.",
    ),
    Matter(
        "returns",
        GOODS,
        "Needs a return label for the {p}",
        "There was no return label for the {p}.|Please send me a label so that I can return the {p}.|"
        "I cannot print the return label for the {p}.|The return label for the {p} has expired.|"
        "I have packed up the {p}, but I have no sticker to post it back with.",
    ),
    Matter(
        "returns",
        GOODS,
        "Asks until when the {p} is returnable",
        "How long can I return the {p}?|Until when may I send back the {p}?|"
        "Is it too late to return the {p} after three weeks?|"
        "What is the last day to give back the {p}?|I bought the {p} in March, may I still bring it back?",
    ),
)

GREETINGS = ("Hello,\n", "Hi,\n", "Dear team,\n", "Good morning,\n", "Hi there,\n", "", "", "Good evening,\n")
ORDERS = (
    "My order number is {o}.",
    "Order {o}.",
    "The order is {o}.",
    "It is about order {o}.",
    "Order no. {o}.",
    "Reference: {o}.",
)
URGENT = (
    "This is urgent.",
    "I need an answer today.",
    "Please hurry, I leave on Friday.",
    "I cannot wait any longer.",
    "Please deal with it at once.",
    "I must have this solved by tomorrow.",
)
RELAXED = (
    "No rush.",
    "There is no hurry.",
    "It is not urgent.",
    "Take your time.",
    "Whenever you have a moment.",
    "Any time this month is fine.",
)
NEUTRAL = ("Please let me know.", "Thanks for your help.", "What can we do?", "Thank you.", "", "Can you look into it?")
NAMES = (
    "Mia Brandt",
    "J. Okafor",
    "Priya Nair",
    "Tom Ellis",
    "Lena Roth",
    "Carlos Vega",
    "Aiko Mori",
    "Sam Doyle",
    "Nadia Haddad",
    "Erik Lund",
    "",
    "",
    "",
    "Grace Kim",
)


def mail(matter: Matter, wording: str, closings: slice, greetings: slice, rng: Random) -> Row:
    """One invented mail and its JSON."""
    product = rng.choice(matter.products.split("|"))
    article = f"an {product}" if product[0] in "aeiou" else f"a {product}"
    order = f"{rng.choice('ABCDEFGH')}-{rng.randint(10000, 99999)}" if rng.random() < matter.order else None
    urgency = "high" if matter.danger else rng.choice(("low", "medium", "medium", "high"))
    closing = rng.choice(
        {"low": RELAXED, "medium": NEUTRAL, "high": NEUTRAL if matter.danger else URGENT}[urgency][closings]
    )
    sentences = [
        capital(wording.format(p=product, a=article)),
        rng.choice(ORDERS).format(o=order) if order else "",
        closing,
    ]
    if order and rng.random() < 0.25:  # the order number first
        sentences[:2] = sentences[1::-1]
    name = rng.choice(NAMES)
    prompt = rng.choice(GREETINGS[greetings]) + " ".join(filter(None, sentences)) + (name and f"\n{name}")
    answer = {
        "category": matter.category,
        "product": product,
        "order_id": order,
        "urgency": urgency,
        "summary": capital(matter.summary.format(p=product)),
    }
    return {"prompt": prompt, "completion": json.dumps(answer)}


def main() -> None:
    rng = Random(SEED)

    def trained(matter: Matter, turn: int) -> Row:
        wordings = matter.wordings.split("|")[:-1]
        return mail(matter, wordings[turn % len(wordings)], slice(None, -1), slice(None, -1), rng)

    def unseen(matter: Matter, turn: int) -> Row:
        return mail(matter, matter.wordings.split("|")[-1], slice(None), slice(None), rng)

    train = deal(MATTERS, TRAIN_ROWS, trained)
    heldout = deal(MATTERS, HELDOUT_ROWS, unseen, train)
    write_set("support_json", "support_json_prompt.txt", train, heldout, PROMPT, rng)


if __name__ == "__main__":
    main()
