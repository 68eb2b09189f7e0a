"""Writes hospital_reports.jsonl, hospital_reports_heldout.jsonl and hospital_prompt.txt: a doctor's notes in, report out.

The facts stand in the notes (vitals, the doctor's impression); the house style is what is learned: their order and
spelling, and which tests go with which impression. A small model can be right, which no diagnosis from scratch would be.

All patients are invented. The reports show a FORMAT to learn; they are no medical advice. The last wording of each
condition is kept for the held-out rows, so that those describe their patients in words that training never saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from _write import Row, capital, deal, write_set

SEED = 20
TRAIN_ROWS, HELDOUT_ROWS = 256, 120
SIGNATURE = "Reviewed by Dr. Sharma"
FEVER = (38.1, 39.4)

PROMPT = f"""
You write hospital reports from patient data. Answer with the report only, in exactly this format:
Vitals: BP <systolic>/<diastolic> mmHg, pulse <rate>/min, <afebrile, or febrile with the temperature in °C>
Diagnosis: Suspected <the impression in the input>
Suggested tests: <two to four tests, separated by commas>

{SIGNATURE}
Copy the vitals and the impression from the input. Write nothing after the last line.
"""


@dataclass(frozen=True)
class Condition:
    """One diagnosis with the patients it is plausible for."""

    name: str
    tests: str
    sexes: str  # "M", "F" or "MF"
    ages: tuple[int, int]  # years
    systolic: tuple[int, int]  # mmHg
    pulse: tuple[int, int]  # beats a minute
    fever: tuple[float, float] | None  # °C; None: no fever
    durations: str  # separated by "|", as the next two
    history: str
    complaints: str  # {d}: where the duration goes, else the end. The last one is kept for the held-out rows


# fmt: off
CONDITIONS = (
    Condition("angina pectoris", "ECG, troponin, chest X-ray, lipid profile", "MF",
              ages=(45, 75), systolic=(138, 165), pulse=(86, 106), fever=None,
              durations="since this morning|since last night|for two days",
              history="smoker|high cholesterol|father died of a heart attack|diabetic",
              complaints="chest tightness|chest pressure when climbing stairs|a squeezing chest pain on walking|"
                         "tightness behind the breastbone on effort|heaviness in the chest that eases with rest"),
    Condition("myocardial infarction", "ECG, serial troponin, echocardiogram", "MF",
              ages=(50, 80), systolic=(96, 148), pulse=(88, 118), fever=None,
              durations="for one hour|for the last two hours|since 6 am",
              history="smoker|diabetic|previous stent|high cholesterol",
              complaints="crushing chest pain going into the left arm|severe central chest pain with sweating|"
                         "chest pain spreading to the jaw, with nausea|intense chest pain and cold sweat|"
                         "vice-like chest pain and pain in the left shoulder"),
    Condition("community-acquired pneumonia", "chest X-ray, full blood count, CRP", "MF",
              ages=(20, 80), systolic=(104, 132), pulse=(94, 118), fever=FEVER,
              durations="for three days|for four days|since Sunday",
              history="smoker|no regular medication|heart disease|",
              complaints="cough with green sputum and chills|productive cough and pain on breathing in|"
                         "cough, shivering and rusty sputum|a wet cough and breathlessness|"
                         "a chesty cough with sharp pain on the right side"),
    Condition("asthma exacerbation", "peak flow, pulse oximetry, chest X-ray, blood gas", "MF",
              ages=(12, 45), systolic=(108, 128), pulse=(102, 124), fever=None,
              durations="since last night|since this morning|for six hours",
              history="known asthma|hay fever|asthma since childhood|cat at home",
              complaints="wheezing and shortness of breath|tight chest with wheeze|dry cough and wheezing at night|"
                         "wheeze and breathlessness after exercise|whistling breath and poor relief from the blue inhaler"),
    Condition("COPD exacerbation", "chest X-ray, blood gas, full blood count", "MF",
              ages=(56, 82), systolic=(122, 148), pulse=(92, 112), fever=None,
              durations="for four days|for a week|since Monday",
              history="smoker for 40 years|ex-smoker|known COPD|home oxygen",
              complaints="worse breathlessness and more sputum than usual|increasing cough and thick sputum|"
                         "shortness of breath on minimal effort with a smoker's cough|"
                         "wheeze and yellow sputum on top of chronic cough|"
                         "worsening of a chronic cough, with breathlessness when dressing"),
    Condition("pulmonary embolism", "CT pulmonary angiogram, D-dimer, ECG", "MF",
              ages=(26, 74), systolic=(96, 124), pulse=(106, 128), fever=None,
              durations="since this morning|for three hours|since yesterday",
              history="long flight last week|knee surgery two weeks ago|recent leg cast|previous leg clot",
              complaints="sudden breathlessness and sharp chest pain|sudden shortness of breath with blood-streaked sputum|"
                         "sharp pain on breathing in and a swollen calf|sudden breathlessness {d} after long bed rest|"
                         "abrupt shortness of breath and light-headedness"),
    Condition("heart failure", "BNP, echocardiogram, chest X-ray", "MF",
              ages=(62, 86), systolic=(112, 156), pulse=(88, 108), fever=None,
              durations="for two weeks|for ten days|for a week",
              history="previous heart attack|known hypertension|diabetic|on water tablets",
              complaints="swollen ankles and breathlessness lying flat|leg swelling and waking at night short of breath|"
                         "breathlessness on effort and weight gain|swollen legs and tiredness|"
                         "need for three pillows at night and puffy feet"),
    Condition("atrial fibrillation", "ECG, thyroid function, echocardiogram", "MF",
              ages=(52, 82), systolic=(108, 138), pulse=(118, 148), fever=None,
              durations="since this morning|for five hours|since yesterday",
              history="known hypertension|no heart disease known|drinks wine daily|",
              complaints="palpitations and an irregular pulse|a fluttering heart and tiredness|"
                         "irregular heartbeat with dizziness|a racing, uneven heartbeat|an irregular thumping "
                         "in the chest"),
    Condition("hypertensive urgency", "ECG, creatinine, urinalysis, fundoscopy", "MF",
              ages=(42, 76), systolic=(186, 214), pulse=(78, 98), fever=None,
              durations="since this morning|for two days|since yesterday",
              history="stopped the blood pressure tablets|known hypertension|father had a stroke|",
              complaints="a pounding headache|headache and a nosebleed|throbbing headache with flushing|"
                         "dull headache at the back of the head|pressure in the head and ringing ears"),
    Condition("complete heart block", "ECG, troponin, electrolytes", "MF",
              ages=(68, 88), systolic=(98, 128), pulse=(34, 42), fever=None,
              durations="since yesterday|for two days|this week",
              history="on beta blockers|previous heart attack|no regular medication|",
              complaints="fainting spells and a slow pulse|near fainting on standing up|dizziness and extreme tiredness|"
                         "repeated light-headedness|sudden collapses without warning"),
    Condition("appendicitis", "abdominal ultrasound, full blood count, CRP", "MF",
              ages=(14, 36), systolic=(106, 126), pulse=(88, 106), fever=(38.0, 38.7),
              durations="since last night|for one day|since yesterday",
              history="no past illness|no regular medication|no previous surgery|",
              complaints="pain in the right lower belly with nausea|belly pain moving from the navel to the right|"
                         "right lower abdominal pain and no appetite|right-sided belly pain, worse on coughing|"
                         "sharp pain low on the right side with vomiting"),
    Condition("cholecystitis", "abdominal ultrasound, liver panel, lipase", "MF",
              ages=(36, 70), systolic=(118, 138), pulse=(90, 108), fever=(38.0, 38.9),
              durations="since last night|for one day|since dinner yesterday",
              history="known gallstones|overweight|diabetic|",
              complaints="right upper belly pain {d} after a fatty meal|pain under the right ribs and vomiting|"
                         "right upper abdominal pain going to the shoulder|constant pain under the right ribs|"
                         "cramping pain below the right rib cage with nausea"),
    Condition("acute pancreatitis", "lipase, abdominal ultrasound, calcium", "MF",
              ages=(32, 66), systolic=(98, 124), pulse=(100, 120), fever=None,
              durations="since last night|for twelve hours|since this morning",
              history="heavy drinker|known gallstones|high triglycerides|",
              complaints="severe upper belly pain going to the back|belt-like upper abdominal pain and vomiting|"
                         "upper abdominal pain, better when leaning forward|constant boring pain in the upper belly|"
                         "violent pain above the navel that goes through to the back"),
    Condition("renal colic", "CT of the kidneys, urinalysis, creatinine", "MF",
              ages=(24, 60), systolic=(126, 152), pulse=(88, 106), fever=None,
              durations="for three hours|since this morning|since 4 am",
              history="previous kidney stone|drinks little water|no past illness|",
              complaints="colicky flank pain going to the groin|waves of left flank pain with nausea|"
                         "severe right flank pain and pink urine|cramping loin pain and inability to lie still|"
                         "sudden one-sided back pain coming in waves"),
    Condition("pyelonephritis", "urinalysis, urine culture, renal ultrasound", "F",
              ages=(18, 62), systolic=(104, 124), pulse=(98, 116), fever=FEVER,
              durations="for two days|since yesterday|for three days",
              history="recurrent bladder infections|diabetic|no regular medication|",
              complaints="flank pain, chills and burning urine|right flank pain with shivering|"
                         "back pain on one side and painful urination|chills, vomiting and loin pain|"
                         "an aching left flank {d} after a bladder infection"),
    Condition("cystitis", "urinalysis, urine culture", "F",
              ages=(18, 70), systolic=(108, 132), pulse=(66, 86), fever=None,
              durations="for two days|since yesterday|for three days",
              history="two similar episodes last year|no regular medication|no known allergies|",
              complaints="burning when passing urine|frequent, painful urination|cloudy urine and constant urge to urinate|"
                         "stinging urination and lower belly discomfort|frequent trips to the toilet with burning"),
    Condition("benign prostatic hyperplasia", "urinalysis, PSA, bladder ultrasound", "M",
              ages=(58, 82), systolic=(122, 148), pulse=(66, 84), fever=None,
              durations="for six months|for a year|for several months",
              history="takes a cold remedy|no previous surgery|diabetic|",
              complaints="a weak urine stream and getting up at night to urinate|difficulty starting to urinate|"
                         "dribbling and the feeling of a full bladder|slow urine flow|"
                         "straining to pass urine with night-time urination"),
    Condition("gastroenteritis", "stool culture, electrolytes, creatinine", "MF",
              ages=(16, 60), systolic=(98, 118), pulse=(92, 108), fever=(38.0, 38.6),
              durations="since last night|for two days|since yesterday",
              history="ate at a street stall|family also ill|back from a trip|",
              complaints="watery diarrhoea and vomiting|belly cramps and loose stools|"
                         "vomiting and diarrhoea ten times a day|nausea, cramps and watery stools|"
                         "loose stools and stomach cramps {d} after a buffet"),
    Condition("gastro-oesophageal reflux", "gastroscopy, Helicobacter test, ECG", "MF",
              ages=(26, 66), systolic=(112, 134), pulse=(66, 84), fever=None,
              durations="for two months|for several weeks|for a month",
              history="overweight|much coffee|takes ibuprofen often|smoker",
              complaints="burning behind the breastbone after meals|heartburn and sour taste at night|"
                         "heartburn when lying down|acid rising after meals with a hoarse voice|"
                         "a burning feeling from stomach to throat after eating"),
    Condition("upper gastrointestinal bleeding", "full blood count, crossmatch, gastroscopy", "MF",
              ages=(46, 82), systolic=(78, 89), pulse=(108, 128), fever=None,
              durations="since this morning|since last night|for one day",
              history="takes ibuprofen daily|on blood thinners|known stomach ulcer|heavy drinker",
              complaints="black stools and dizziness|vomiting of dark, coffee-like material|vomiting of fresh blood|"
                         "tarry stools and near fainting|sticky black stools and marked weakness"),
    Condition("iron deficiency anaemia", "full blood count, ferritin, iron studies", "F",
              ages=(18, 48), systolic=(102, 122), pulse=(88, 99), fever=None,
              durations="for three months|for two months|for several weeks",
              history="vegetarian|three children|no regular medication|",
              complaints="tiredness and heavy periods|pallor and breathlessness on stairs|"
                         "fatigue, brittle nails and heavy periods|constant tiredness and craving for ice|"
                         "exhaustion, hair loss and long, heavy bleeding each month"),
    Condition("hyperthyroidism", "TSH, free T4, ECG", "MF",
              ages=(22, 52), systolic=(118, 136), pulse=(104, 122), fever=None,
              durations="for two months|for six weeks|for several weeks",
              history="mother has thyroid disease|smoker|no regular medication|",
              complaints="weight loss, tremor and sweating|palpitations and heat intolerance|"
                         "trembling hands and weight loss|restlessness, bulging eyes and sweating|"
                         "nervousness, shaky hands and a swelling in the neck"),
    Condition("hypothyroidism", "TSH, free T4, lipid profile", "MF",
              ages=(30, 68), systolic=(110, 132), pulse=(50, 58), fever=None,
              durations="for six months|for four months|for several months",
              history="sister has thyroid disease|no regular medication|",
              complaints="weight gain, cold hands and dry skin|tiredness and feeling cold all the time|"
                         "constipation, weight gain and slow thinking|dry hair, hoarse voice and fatigue|"
                         "puffy face, sluggishness and constant cold"),
    Condition("type 2 diabetes", "HbA1c, fasting glucose, lipid profile", "MF",
              ages=(40, 72), systolic=(124, 154), pulse=(70, 90), fever=None,
              durations="for two months|for six weeks|for several weeks",
              history="overweight|mother diabetic|no regular medication|high cholesterol",
              complaints="great thirst and frequent urination|blurred vision and constant thirst|"
                         "tiredness, thirst and slow-healing cuts|passing a lot of urine and weight loss|"
                         "unquenchable thirst and tingling feet"),
    Condition("diabetic ketoacidosis", "blood glucose, ketones, blood gas", "MF",
              ages=(16, 36), systolic=(92, 112), pulse=(108, 128), fever=None,
              durations="since yesterday|for one day|for two days",
              history="type 1 diabetes|missed insulin doses|on an insulin pump",
              complaints="vomiting, thirst and deep breathing|belly pain, vomiting and fruity breath|"
                         "confusion and great thirst|nausea and very deep, fast breathing|"
                         "drowsiness, vomiting and breath smelling of acetone"),
    Condition("migraine", "neurological examination, MRI of the brain", "MF",
              ages=(18, 50), systolic=(108, 132), pulse=(64, 84), fever=None,
              durations="since this morning|for one day|since last night",
              history="mother has migraine|stress at work|similar attacks before|",
              complaints="a throbbing one-sided headache with nausea|a pulsing headache and sensitivity to light|"
                         "zigzag lights followed by a headache|left-sided headache, worse with noise|"
                         "a pounding headache behind one eye with vomiting"),
    Condition("bacterial meningitis", "lumbar puncture, blood cultures, CRP", "MF",
              ages=(16, 42), systolic=(98, 118), pulse=(108, 128), fever=(38.8, 40.1),
              durations="since last night|for one day|since this morning",
              history="student in a hostel|recent ear infection|no past illness|",
              complaints="severe headache and a stiff neck|headache, vomiting and dislike of light|"
                         "stiff neck and confusion|headache, neck pain and a purple rash|"
                         "drowsiness and inability to bend the neck"),
    Condition("ischaemic stroke", "CT of the head, CT angiography, glucose, ECG", "MF",
              ages=(58, 88), systolic=(152, 184), pulse=(72, 96), fever=None,
              durations="for one hour|since 7 am|for two hours",
              history="irregular heartbeat|smoker|diabetic|known hypertension",
              complaints="sudden weakness of the right arm and slurred speech|a drooping face and weak left arm|"
                         "sudden loss of speech|numbness of one side and unsteady gait|"
                         "a left hand that suddenly went limp and a crooked smile"),
    Condition("deep vein thrombosis", "leg duplex ultrasound, D-dimer, coagulation screen", "MF",
              ages=(28, 76), systolic=(112, 136), pulse=(78, 96), fever=None,
              durations="for two days|since yesterday|for three days",
              history="long flight last week|recent hip surgery|previous clot|two weeks in bed",
              complaints="a swollen, painful left calf|one leg swollen and warm|right calf pain and swelling|"
                         "tight calf with redness and swelling|a heavy, swollen lower leg on one side"),
    Condition("gout", "uric acid, joint aspiration, CRP", "M",
              ages=(40, 74), systolic=(128, 152), pulse=(72, 92), fever=None,
              durations="since last night|for one day|since yesterday",
              history="on water tablets|beer every evening|similar attack last year|",
              complaints="a red, hot and swollen big toe|severe pain in the big toe|"
                         "a swollen big toe that cannot bear a sheet|sudden pain and redness of the toe joint|"
                         "a throbbing, shiny red joint at the base of the big toe"),
    Condition("cellulitis", "full blood count, CRP, blood cultures", "MF",
              ages=(34, 78), systolic=(112, 136), pulse=(90, 106), fever=(38.0, 39.0),
              durations="for two days|since yesterday|for three days",
              history="diabetic|athlete's foot|insect bite last week|overweight",
              complaints="a red, hot and tender lower leg|spreading redness of the left shin|"
                         "warm, painful redness around a scratch|a swollen red forearm {d} after a cut|"
                         "hot, sore skin on the leg with a growing red border"),
    Condition("tonsillitis", "throat swab, monospot test", "MF",
              ages=(12, 28), systolic=(104, 122), pulse=(88, 106), fever=(38.2, 39.4),
              durations="for two days|since yesterday|for three days",
              history="penicillin allergy|no past illness|brother also ill|",
              complaints="sore throat and pain on swallowing|swollen tonsils with white spots|"
                         "a very sore throat and swollen neck glands|painful swallowing and bad breath|"
                         "throat pain so strong that only liquids go down"),
    Condition("influenza", "influenza swab, full blood count, CRP", "MF",
              ages=(16, 64), systolic=(106, 130), pulse=(90, 108), fever=(38.5, 39.8),
              durations="since yesterday|for two days|since Monday",
              history="not vaccinated this year|family also ill|no past illness|",
              complaints="muscle aches, headache and dry cough|sudden chills and body aches|aching limbs and exhaustion|"
                         "shivering, headache and a runny nose|pain in every muscle, chills and a hacking cough"),
    Condition("urosepsis", "blood cultures, lactate, urinalysis", "MF",
              ages=(64, 90), systolic=(76, 89), pulse=(110, 132), fever=(38.6, 40.0),
              durations="since this morning|since last night|for one day",
              history="urinary catheter|nursing home resident|diabetic",
              complaints="confusion and shaking chills|drowsiness and foul-smelling urine|shaking chills and burning urine|"
                         "new confusion and little urine|rigors and confused talk {d} after a bladder infection"),
    Condition("pre-eclampsia", "urine protein, liver panel, fetal ultrasound", "F",
              ages=(20, 40), systolic=(152, 172), pulse=(78, 98), fever=None,
              durations="since yesterday|for two days|since this morning",
              history="first pregnancy|expecting twins|sister had pre-eclampsia",
              complaints="headache and swollen hands {d} in late pregnancy|"
                         "flashing lights and headache {d} in the third trimester|"
                         "swelling of face and hands {d} in late pregnancy|"
                         "upper belly pain and headache {d} in a pregnancy near term|"
                         "blurred vision and puffy hands {d} in the eighth month of pregnancy"),
    Condition("ectopic pregnancy", "serum hCG, pelvic ultrasound, full blood count", "F",
              ages=(20, 40), systolic=(84, 108), pulse=(102, 122), fever=None,
              durations="since this morning|for six hours|since last night",
              history="previous pelvic infection|has a coil|previous ectopic|",
              complaints="a missed period and one-sided lower belly pain|"
                         "sharp pelvic pain {d}, seven weeks after the last period|"
                         "a positive pregnancy test, spotting and pelvic pain|"
                         "a late period, light bleeding and lower belly pain|"
                         "a period two weeks overdue and stabbing pain low on the left"),
    Condition("anaphylaxis", "serum tryptase, ECG, blood gas", "MF",
              ages=(16, 62), systolic=(74, 89), pulse=(116, 138), fever=None,
              durations="for ten minutes|for twenty minutes|for half an hour",
              history="known allergies|first such reaction|no adrenaline pen",
              complaints="hives and swollen lips {d} after a meal|itching, wheeze and swelling of the face|"
                         "hives and a tight throat {d} after a wasp sting|"
                         "flushing, wheeze and faintness {d} after an antibiotic|"
                         "a swollen tongue and itchy welts {d} after eating nuts"),
)
# fmt: on

SHEETS = (  # {v} vitals, {c} complaint with its duration, {h} history; capitals begin a sentence
    "{Sex}, {age}, {c}, {v}{, h}.",
    "{age}-year-old {man} with {c}. {V}.{ H}",
    "{age}yo {m}, c/o {c}, {v}{, h}.",
    "Patient is {a} {age}-year-old {man} complaining of {c}. {V}.{ H}",
    "{Man} aged {age}, {c}. On arrival {v}.{ H}",
    "{V}. {Man}, {age} years, reports {c}.{ H}",
    "{Man}, {age}. {C}. {V}.{ H}",
    "Came in with {c}: {man} of {age}, {v}{, h}.",
    "Triage note: {age} {m}, {c}; {v}{; h}.",
    "{C} in {a} {age}-year-old {man}. {V}.{ H}",
    "Please write up this {man}, age {age}: {c}. {V}.{ H}",
    "{age} y, {sex}. {V}. Complaint: {c}.{ H}",
)
IMPRESSIONS = (
    "Impression: {}.",
    "Looks like {}.",
    "Working diagnosis {}.",
    "Probably {}.",
    "I suspect {}.",
    "Most likely {}.",
    "Query {}.",
    "Seems to be {}.",  # kept for the held-out rows, as the next
    "My guess is {}.",
)
UNSEEN = 2
PRESSURES = ("BP {}/{}", "blood pressure {}/{}", "BP {}/{} mmHg", "blood pressure of {}/{}", "BP {} over {}")
PULSES = ("pulse {}", "HR {}", "heart rate {}", "pulse {}/min", "pulse rate {}")
FEVERS = ("temp {}", "temperature {} °C", "fever of {}", "T {} C", "febrile at {}")
NO_FEVERS = ("no fever", "afebrile", "temperature normal", "temp {}", "T {} C")


def patient(condition: Condition, complaint: str, impressions: slice, rng: Random) -> Row:
    """One invented patient and the report."""
    age, sex = rng.randint(*condition.ages), rng.choice(condition.sexes)
    systolic, pulse = rng.randint(*condition.systolic), rng.randint(*condition.pulse)
    diastolic = systolic * 6 // 10 + rng.randint(0, 8)
    if condition.fever:
        low, high = condition.fever
        degrees = f"{rng.randint(round(low * 10), round(high * 10)) / 10:.1f}"
        temperature, report = rng.choice(FEVERS).format(degrees), f"febrile {degrees} °C"
    else:
        temperature, report = rng.choice(NO_FEVERS).format(f"{rng.randint(362, 372) / 10:.1f}"), "afebrile"
    vitals = [rng.choice(PRESSURES).format(systolic, diastolic), rng.choice(PULSES).format(pulse), temperature]
    if rng.random() < 0.4:
        rng.shuffle(vitals)
    person = (
        {"M": ("man", "male"), "F": ("woman", "female")}
        if age >= 18
        else {"M": ("boy", "male"), "F": ("girl", "female")}
    )
    man, sex_word = person[sex]
    history = rng.choice(condition.history.split("|")) if rng.random() < 0.8 else ""
    duration = rng.choice(condition.durations.split("|"))
    said = complaint.replace("{d}", duration) if "{d}" in complaint else f"{complaint} {duration}"
    parts = {
        "{Sex}": sex_word.capitalize(),
        "{sex}": sex_word,
        "{man}": man,
        "{Man}": man.capitalize(),
        "{m}": sex,
        "{age}": str(age),
        "{a}": "an" if age in (18, *range(80, 90)) else "a",
        "{c}": said,
        "{C}": capital(said),
        "{v}": ", ".join(vitals),
        "{V}": capital(", ".join(vitals)),
        "{, h}": history and f", {history}",
        "{; h}": history and f"; {history}",
        "{ H}": history and f" {capital(history)}.",
    }
    prompt = rng.choice(SHEETS)
    for slot, text in parts.items():
        prompt = prompt.replace(slot, text)
    prompt += " " + rng.choice(IMPRESSIONS[impressions]).format(condition.name)
    completion = (
        f"Vitals: BP {systolic}/{diastolic} mmHg, pulse {pulse}/min, {report}\n"
        f"Diagnosis: Suspected {condition.name}\n"
        f"Suggested tests: {condition.tests}\n\n{SIGNATURE}"
    )
    return {"prompt": prompt, "completion": completion}


def vitals(row: Row) -> str:
    """Blood pressure and pulse, as the report gives them."""
    return row["completion"].split("/min")[0]


def main() -> None:
    rng = Random(SEED)

    def trained(condition: Condition, turn: int) -> Row:
        complaints = condition.complaints.split("|")[:-1]
        return patient(condition, complaints[turn % len(complaints)], slice(None, -UNSEEN), rng)

    def unseen(condition: Condition, turn: int) -> Row:
        """With vitals that nobody in training has."""
        while vitals(row := patient(condition, condition.complaints.split("|")[-1], slice(None), rng)) in known:
            pass
        return row

    train = deal(CONDITIONS, TRAIN_ROWS, trained)
    known = {vitals(row) for row in train}
    heldout = deal(CONDITIONS, HELDOUT_ROWS, unseen, train)
    write_set("hospital_reports", "hospital_prompt.txt", train, heldout, PROMPT, rng)


if __name__ == "__main__":
    main()
