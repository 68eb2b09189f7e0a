"""Writes brand_voice.jsonl, brand_voice_heldout.jsonl and brand_voice_prompt.txt: a blunt sentence in, the house tone
out.

Larkfield, a shop for home and garden, is invented. A point of HELDOUT is made in no training row: the held-out rows ask
for
the tone on matters that training never saw.
"""

from __future__ import annotations

from random import Random

from _write import Row, capital, deal, write_set

SEED = 22
TRAIN_ROWS, HELDOUT_ROWS = 256, 120
OPENING = "Thank you for reaching out to Larkfield."
CLOSING = "Warmly, your Larkfield team"

PROMPT = f"""
You rewrite blunt sentences from our staff in the voice of Larkfield, a shop for home and garden. Begin with "{OPENING}"
Then say the same thing in one or two warm, polite sentences: keep every fact, such as products, days and amounts, add no
new ones, put no blame on the customer and, where the news is bad, say that we are sorry. After a blank line end with
"{CLOSING}" and nothing after it. Answer with the rewritten message only.
"""

ANY = (
    "garden bench|teapot|reading lamp|picnic basket|wool blanket|bird feeder|planter|bread bin|hammock|doormat|watering"
    " can|wall clock|fruit bowl|storage chest|parasol"
)
SLOTS = {
    "p": tuple(ANY.split("|")),  # any product
    "b": (
        "garden bench",
        "storage chest",
        "garden table",
        "bookcase",
        "rocking chair",
        "plant stand",
    ),  # big, with screws
    "i": (
        "wicker basket",
        "wool blanket",
        "rocking chair",
        "bookcase",
        "paper lantern",
        "picnic basket",
    ),  # must stay dry
    "w": ("teapot", "fruit bowl", "bread bin", "watering can", "planter", "bird feeder"),  # washable
    "g": (
        "reading lamp",
        "wall clock",
        "weather station",
        "coffee maker",
        "robot mower",
        "garden heater",
    ),  # with a manual
    "s": ("fire bowl", "garden grill", "watering can", "metal trellis"),  # rusts
    "d": (
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "2 May",
        "14 June",
        "9 August",
        "21 October",
    ),
    "n": ("2", "3", "4", "5", "6", "7", "8", "9"),
    "t": ("15", "20", "25", "30", "40", "45", "60", "90"),
    "c": ("green", "blue", "grey", "white", "red", "brown"),
}

# Each point: blunt wordings, then polite wordings, both separated by "|", with slots of SLOTS.
Point = tuple[str, str]

TRAIN: tuple[Point, ...] = (
    (
        "Your {p} will be late. It comes on {d}.|The {p} is delayed until {d}.",
        (
            "We are sorry that your {p} is taking longer than planned. It will be with you on {d}.|"
            "Your {p} needs a little more time, and we apologise for the wait. You can look forward to it on {d}."
        ),
    ),
    (
        "The {p} is sold out.|We have no {p} left.",
        (
            "The {p} has been so popular that it has sold out, and we are sorry to disappoint you.|"
            "We are sorry to say that every {p} has already found a home."
        ),
    ),
    (
        (
            "No refund for the {p}. You bought it over {t} days ago.|It's more than {t} days, so no money back for the"
            " {p}."
        ),
        (
            "As your {p} was bought more than {t} days ago, we are sorry that we cannot offer a refund.|"
            "We wish we could refund your {p}, but the purchase is more than {t} days old. We are sorry about that."
        ),
    ),
    (
        "Send us a photo of the broken {p}.|We need a picture of the damage to the {p}.",
        (
            "Would you kindly send us a photo of the damage to your {p}?|"
            "To help you with your {p}, we would be grateful for a picture of the damage."
        ),
    ),
    (
        "You gave the wrong address for the {p}.|The address for the {p} is wrong, fix it.",
        (
            "It seems that the address for your {p} needs a small correction. Could you please send us the right one?|"
            "Our courier could not find the address for your {p}. Would you be so kind as to check it for us?"
        ),
    ),
    (
        "Pay the bill for the {p} by {d}.|We want our money for the {p} by {d}.",
        (
            "May we kindly remind you of the bill for your {p}? We would be grateful for your payment by {d}.|"
            "A friendly reminder that the bill for your {p} is still open. Your payment by {d} would be much "
            "appreciated."
        ),
    ),
    (
        "The {p} only comes in {c}.|There is no other colour than {c} for the {p}.",
        (
            "At the moment our {p} is available in {c} only, and we hope that you like it.|"
            "We currently offer the {p} in {c} alone, and we appreciate your understanding."
        ),
    ),
    (
        "We don't gift-wrap the {p}.|No gift wrapping for the {p}.",
        (
            "What a lovely idea to give the {p} as a present! We are sorry that we cannot gift-wrap it.|"
            "We are sorry that gift wrapping is not available for the {p}."
        ),
    ),
    (
        "The {b} needs assembly. It takes {t} minutes.|You have to build the {b} yourself, about {t} minutes.",
        (
            "Your {b} asks for a little assembly, and about {t} minutes are all it takes.|"
            "The {b} comes ready for you to assemble, which takes around {t} minutes."
        ),
    ),
    (
        "Stop calling about the {p}. We'll email you on {d}.|Don't phone about the {p}, you get a mail on {d}.",
        (
            "We understand that you are eager for news of your {p}. We will send you an email on {d}, so there is no "
            "need to call.|"
            "To save you another call, we will gladly email you about your {p} on {d}."
        ),
    ),
    (
        "We're closed on {d}.|Nobody is here on {d}.",
        (
            "Our team takes a rest on {d}, and we will be delighted to help you on any other day.|"
            "We are sorry that our doors are closed on {d}. We look forward to helping you once we are back."
        ),
    ),
    (
        "The price of the {p} goes up by {n} euros on {d}.|From {d} the {p} costs {n} euros more.",
        (
            "We would like to let you know that from {d} the price of our {p} will rise by {n} euros.|"
            "From {d} our {p} will cost {n} euros more, and we thank you for your understanding."
        ),
    ),
    (
        "You can't cancel the {p}, it has shipped.|Too late to cancel. The {p} is on the truck.",
        (
            "Your {p} is already on its way to you, so we are sorry that we can no longer cancel it.|"
            "We are sorry that the order cannot be cancelled any more, as your {p} has already left our warehouse."
        ),
    ),
    (
        "Put the {p} back in its box and send it to us.|Return the {p} in the original box.",
        (
            "Could you please place your {p} in its original box and send it back to us?|"
            "We would be grateful if you returned the {p} in its original packaging."
        ),
    ),
    (
        "We lost your {p}. A new one ships on {d}.|Your {p} got lost. We send another on {d}.",
        (
            "We are truly sorry that your {p} was lost. A new one will leave us on {d}.|"
            "Your {p} went astray, for which we apologise with all our heart. A replacement will be sent on {d}."
        ),
    ),
    (
        "The code has expired. No discount on the {p}.|Your voucher is too old for the {p}.",
        (
            "We are sorry that your voucher for the {p} has expired and can no longer be used.|"
            "Your discount code has unfortunately run out, so we are sorry that it cannot be applied to the {p}."
        ),
    ),
    (
        "The {i} is not waterproof. Keep it inside.|Don't leave the {i} in the rain.",
        (
            "To keep your {i} beautiful, please give it a dry place, as it does not like the rain.|"
            "Your {i} feels most at home in a dry spot, so may we ask you to shelter it from the rain?"
        ),
    ),
    (
        "Shipping the {p} costs {n} euros.|You pay {n} euros for delivery of the {p}.",
        (
            "We will gladly bring the {p} to your door for a delivery fee of {n} euros.|The delivery of your {p} comes"
            " to {n} euros."
        ),
    ),
    (
        "You used the {p}, so we won't take it back.|A used {p} can't be returned.",
        (
            "As the {p} has already been in use, we are sorry that we cannot accept a return.|"
            "We are sorry that we can only welcome back a {p} that has not been used."
        ),
    ),
    (
        "We sent you the wrong {p}. Keep it.|That was the wrong {p}. You don't need to send it back.",
        (
            "We apologise for sending you the wrong {p}. Please keep it, there is no need to return it.|"
            "The wrong {p} found its way to you, and we are sorry. You are welcome to keep it."
        ),
    ),
    (
        (
            "Nobody was home, so the {p} is at the post office until {d}.|You weren't home. Get your {p} at the post"
            " office by {d}."
        ),
        (
            "As we missed you at the door, your {p} is waiting for you at the post office until {d}.|"
            "Your {p} is ready for you at the post office, where you can collect it until {d}."
        ),
    ),
    (
        "We only have {n} pieces of the {p}. Order now.|Just {n} of the {p} left, be quick.",
        (
            "Only {n} pieces of our {p} remain, so we warmly invite you to order soon.|"
            "If you have taken a liking to the {p}, may we mention that just {n} pieces are left?"
        ),
    ),
    (
        "Wait {n} days for an answer about the {p}.|We need {n} days to look into the {p}.",
        (
            "We would like to look into your {p} with care, and we kindly ask for {n} days to do so.|"
            "Please allow us {n} days to give you a thorough answer about your {p}."
        ),
    ),
    (
        "Your {p} has no guarantee any more.|The guarantee on the {p} is over.",
        (
            "We are sorry to let you know that the guarantee of your {p} has come to an end.|"
            "The guarantee for your {p} has unfortunately expired, and we are sorry that we have no better news."
        ),
    ),
    (
        "Tell us your order number or we can't help with the {p}.|No order number, no help with the {p}.",
        (
            "Could you please share your order number with us, so that we can help you with your {p}?|"
            "With your order number we will gladly look after your {p}. Would you send it to us?"
        ),
    ),
    (
        "We stopped making the {p}.|The {p} is gone for good.",
        (
            "Our {p} has retired from our collection, and we are sorry that we can no longer offer it.|"
            "We are sorry to say goodbye to our {p}, which we no longer make."
        ),
    ),
    (
        "The {b} weighs {t} kilos, get someone to help you carry it.|It's {t} kilos. Don't lift the {b} alone.",
        (
            "As your {b} weighs {t} kilos, we kindly suggest carrying it together with a helping hand.|"
            "Your {b} weighs {t} kilos, so please ask a friend to help you lift it."
        ),
    ),
    (
        "Clean the {w} with water only, or you ruin it.|No soap on the {w}, just water.",
        (
            "Your {w} will stay lovely if you clean it with nothing but water.|"
            "May we suggest cleaning your {w} with plain water alone? It will thank you for it."
        ),
    ),
    (
        "Your card was declined for the {p}. Try another.|We couldn't charge your card for the {p}.",
        (
            "The payment for your {p} did not go through, and we are sorry for the trouble. Would you kindly try"
            " another card?|We are sorry that we could not process your card for the {p}. Perhaps you would like to try"
            " a different one?"
        ),
    ),
    (
        "You get {n} euros back for the scratched {p}.|We knock {n} euros off the {p} for the scratch.",
        (
            "We are sorry about the scratch on your {p} and will gladly return {n} euros to you.|"
            "Please accept our apology for the scratched {p}, together with {n} euros back."
        ),
    ),
    (
        "No, we don't ship the {p} abroad.|The {p} can't go to another country.",
        (
            "We are honoured by your interest from abroad and sorry that we cannot ship the {p} to other countries.|"
            "We are sorry that for now the {p} can only travel within our own country."
        ),
    ),
    (
        "Read the manual of the {g} first.|It's in the manual of the {g}.",
        (
            "You will find the answer in the manual of your {g}, and we are happy to help if anything remains open.|"
            "May we point you to the manual that came with your {g}? It explains every step."
        ),
    ),
    (
        "The driver comes on {d}, be at home for the {p}.|Stay home on {d}, the {p} arrives.",
        (
            "Our driver will bring your {p} on {d}. It would be wonderful if someone could be at home.|"
            "Your {p} arrives on {d}, and we would be grateful if you could be there to receive it."
        ),
    ),
    (
        "We're out of {c}. Pick another colour for the {p}.|No more {c} for the {p}, choose something else.",
        (
            "We are sorry that the {p} in {c} is no longer in stock. Would another colour please you as well?|"
            "The {c} version of our {p} has sold out, for which we apologise. May we invite you to choose another "
            "colour?"
        ),
    ),
    (
        "Minimum order is {t} euros.|We don't deliver below {t} euros.",
        (
            "We will be delighted to deliver to you for orders of {t} euros or more.|"
            "May we mention that our deliveries begin at an order value of {t} euros?"
        ),
    ),
    (
        "You ordered the {p} twice. Which one do you want?|Two orders for the {p}? Tell us which is right.",
        (
            "We found two orders for the {p} under your name. Could you kindly tell us which one you would like to"
            " keep?|It looks as if the {p} was ordered twice. Would you let us know which order is the right one?"
        ),
    ),
    (
        "The {b} was too big for one box, so you get {n} parcels.|Your {b} comes in {n} parcels, don't be surprised.",
        (
            "So that everything reaches you safely, your {b} is travelling in {n} parcels.|"
            "Please do not be surprised: your {b} will come to you in {n} parcels."
        ),
    ),
    (
        "Screws are missing? We mail new ones for the {b} on {d}.|New screws for the {b} go out on {d}.",
        (
            "We are sorry about the missing screws. New ones for your {b} will be on their way on {d}.|"
            "Please excuse the missing screws for your {b}. We will send you a new set on {d}."
        ),
    ),
    (
        "We won't lower the price of the {p}.|No haggling over the {p}.",
        (
            "We always try to offer a fair price from the start, and we are sorry that we cannot reduce the {p}"
            " further.|We are sorry that we cannot change the price of our {p}, and we hope that you will enjoy it all"
            " the same."
        ),
    ),
    (
        "The {p} is back on {d}.|You can buy the {p} again from {d}.",
        "We have happy news: our {p} returns on {d}.|From {d} we will be delighted to offer you the {p} again.",
    ),
    (
        "Your {p} has shipped.|The {p} left our warehouse.",
        (
            "We are happy to tell you that your {p} is on its way.|Good news: your {p} has just set out on its journey"
            " to you."
        ),
    ),
    (
        "You didn't pay enough for the {p}. {n} euros are missing.|We still get {n} euros for the {p}.",
        (
            "It seems that {n} euros are still open for your {p}. We would be grateful if you could send them to us.|"
            "May we kindly point out that {n} euros remain to be paid for your {p}?"
        ),
    ),
    (
        "The {b} can't carry more than {t} kilos.|Over {t} kilos the {b} breaks.",
        (
            "Your {b} will serve you well with up to {t} kilos, so please do not ask more of it.|"
            "May we recommend a load of no more than {t} kilos for your {b}?"
        ),
    ),
    (
        "The repair of the {g} costs {t} euros. Yes or no?|We fix the {g} for {t} euros, tell us if you want that.",
        (
            "We can gladly repair your {g} for {t} euros. Would you let us know if this suits you?|"
            "The repair of your {g} would come to {t} euros. May we go ahead?"
        ),
    ),
)

HELDOUT: tuple[Point, ...] = (
    (
        "The {i} smells at first. Air it for {n} hours.",
        "A new {i} may have a light scent at first, and {n} hours of fresh air will help.",
    ),
    (
        "We got your {p} back. It's dirty.",
        "Your returned {p} has reached us, and we would like to mention that we found it a little soiled.",
    ),
    (
        "You can't pick up the {p} in the shop before {d}.",
        "We are sorry that your {p} will be ready for collection only from {d}.",
    ),
    (
        "Our website is down until {d}.",
        "Our website is taking a short break until {d}, and we are sorry for the inconvenience.",
    ),
    (
        "The {p} on the picture isn't what you get. The real one is {c}.",
        "We are sorry that our picture was misleading: the {p} that you will receive is {c}.",
    ),
    (
        "We changed your order. You get a {c} {p}.",
        "We have made a small change to your order and will send you the {p} in {c}.",
    ),
    (
        "Don't let children climb on the {b}.",
        "For the safety of your little ones, please do not let them climb on the {b}.",
    ),
    (
        "Only {n} per customer for the {p}.",
        "So that everyone can enjoy the {p}, we kindly ask each customer to take no more than {n}.",
    ),
    ("We don't take cash for the {p}.", "We are sorry that we cannot accept cash for the {p}."),
    ("The workshop on {d} is full.", "We are sorry that all places in our workshop on {d} have been taken."),
    (
        "Your complaint about the {p} went to the wrong desk. Wait until {d}.",
        "Your message about the {p} reached the wrong desk first, for which we apologise. We will answer you by {d}.",
    ),
    (
        "Fill in our survey about the {p}. It takes {n} minutes.",
        "We would love to hear what you think of your {p}. Our survey takes just {n} minutes.",
    ),
    ("The {p} is handmade, so no two look the same.", "Each {p} is made by hand, which makes yours one of a kind."),
    (
        "You missed the sale. The {p} costs full price.",
        "We are sorry that our sale has ended and the {p} is back at its full price.",
    ),
    (
        "We raise the membership fee to {t} euros.",
        "We would like to let you know that our membership fee will rise to {t} euros.",
    ),
    (
        "Somebody else bought the last {p} before you.",
        "We are sorry that another customer was a moment quicker and chose our last {p}.",
    ),
    (
        "Unsubscribe from the newsletter if you don't like it.|Don't like our newsletter? Then unsubscribe.",
        "If our newsletter no longer brings you joy, you are welcome to unsubscribe at any time.",
    ),
    (
        "The {s} rusts. Oil it every {n} weeks.",
        "To protect your {s} from rust, please treat it to a little oil every {n} weeks.",
    ),
    (
        "We answer mails from {d} on, not earlier.",
        "We will be delighted to answer your email from {d} onwards, and we thank you for your patience.",
    ),
    (
        "The colour {c} is out of fashion, we dropped it for the {p}.",
        "We have said goodbye to {c} for our {p}, and we are sorry if it was your favourite.",
    ),
)


def rewrite(point: Point, blunt: str, rng: Random) -> Row:
    """One blunt sentence and what Larkfield makes of it, with the same values in both."""
    values = {slot: rng.choice(choices) for slot, choices in SLOTS.items()}
    polite = rng.choice(point[1].split("|")).format(**values)
    return {"prompt": capital(blunt.format(**values)), "completion": f"{OPENING} {capital(polite)}\n\n{CLOSING}"}


def main() -> None:
    rng = Random(SEED)

    def row(point: Point, turn: int) -> Row:
        blunt = point[0].split("|")
        return rewrite(point, blunt[turn % len(blunt)], rng)

    train = deal(TRAIN, TRAIN_ROWS, row)
    heldout = deal(HELDOUT, HELDOUT_ROWS, row, train)
    write_set("brand_voice", "brand_voice_prompt.txt", train, heldout, PROMPT, rng)


if __name__ == "__main__":
    main()
