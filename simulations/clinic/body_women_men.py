"""Body of the fictional records: what only women or only men have."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="period_pain",
        lasting=Lasting.MONTHS,
        sex="f",
        ages=(18, 45),
        others=Others.CHILD,
        other_ages=(13, 17),
        says=(
            "My period cramps knock me out for two days every month, {for}.",
            "I curl up with a hot-water bottle on day one each month and miss work, {for} now.",
            "{who} misses school on the first day of every period because of cramps, {for}.",
            "Cramps in my belly and back with each period, worse {for}.",
            "Day one of my cycle means I'm on the bathroom floor, it has been so {for}.",
        ),
        notes=(
            "The bleeding is normal.",
            "Between periods there's no pain.",
            "It goes down into the thighs.",
        ),
        tried=("paracetamol", "magnesium", "a hot-water bottle"),
        asks=(
            (
                "Could it be endometriosis?",
                "Pain that fails on tablets should be looked at for that.",
            ),
            ("Would the pill help?", "The pill helps most people, we can talk it through."),
            ("Which painkiller is best?", "Ibuprofen or naproxen work better than paracetamol."),
        ),
        cause=("period cramps", "ordinary but strong period pain"),
        do=(
            "Take ibuprofen with food, the day before if possible.",
            "Keep heat on belly and back.",
            "Move gently, a walk eases cramps.",
        ),
        avoid=("Do not wait until the pain is strong.", "No ibuprofen on an empty stomach."),
        see=(
            "soon: there is pain between periods or very heavy bleeding",
            "three months of ibuprofen do not help",
        ),
    ),
    Topic(
        name="hot_flushes",
        lasting=Lasting.MONTHS,
        sex="f",
        ages=(45, 60),
        says=(
            "I boil over ten times a day and change my nightdress twice a night, {for}.",
            "Heat rises from my chest to my face and I'm drenched, {for} now.",
            "My periods have become rare and the flushes are driving me mad, {for}.",
            "I stand at the open fridge in meetings, so to speak. Hot flushes {for}.",
            "Without warning my face glows and the sweat runs, and I sleep in bits, {for}.",
        ),
        notes=(
            "My last period was four months ago.",
            "My mother stopped at fifty-one.",
            "My blood pressure is fine.",
        ),
        tried=("sage tablets", "a fan", "black cohosh"),
        asks=(
            (
                "Is hormone treatment safe?",
                "For most women under sixty its benefits outweigh the risks.",
            ),
            ("How long does this last?", "On average it lasts for several years."),
            ("Do I need a hormone test?", "At this age no hormone test is needed."),
        ),
        cause=("the menopause", "hot flushes of the menopause"),
        do=(
            "Dress in layers and keep the bedroom at eighteen degrees.",
            "Note the flushes for two weeks and what sets them off.",
            "Book a talk about hormone treatment.",
        ),
        avoid=(
            "Avoid hot drinks, spicy food and wine at night.",
            "No hormone creams from the internet.",
        ),
        see=(
            "soon: bleeding returns after a year without",
            "sweats come with fever or weight loss",
        ),
    ),
    Topic(
        name="thrush",
        lasting=Lasting.DAYS,
        sex="f",
        ages=(18, 50),
        says=(
            "I'm itchy down below with white, lumpy discharge, {for}.",
            "After antibiotics I have burning and itching in my vagina, {for}.",
            "It's embarrassing, but I can't sit still for itching, and there's cottage-cheese "
            "stuff, {for}.",
            "Itching and soreness, no smell, it started {ago}.",
            "Cycling home was agony, raw and itchy between the legs, {for}.",
        ),
        notes=("I've had it once before.", "There's no pain in my belly.", "I'm not pregnant."),
        tried=("yoghurt", "a wash lotion", "cotton underwear"),
        asks=(
            ("Does my partner need treating?", "A partner without symptoms needs nothing."),
            ("Can I buy something?", "The pharmacy sells clotrimazole without prescription."),
            ("Is it an infection from sex?", "It is a yeast, not caught through sex."),
        ),
        cause=("thrush, a yeast infection", "thrush"),
        do=(
            "Use one clotrimazole pessary tonight and cream for a week.",
            "Wash with water only.",
            "Wear loose cotton underwear.",
        ),
        avoid=("No douches, yoghurt or scented wash.", "Leave panty liners out for now."),
        see=(
            "soon: there is a smell, fever, belly pain or a pregnancy",
            "it returns a fourth time this year",
        ),
    ),
    Topic(
        name="cystitis",
        lasting=Lasting.DAYS,
        sex="f",
        ages=(18, 75),
        says=(
            "It burns when I pee and I go every twenty minutes, {for}.",
            "I have a bladder infection again, stinging and an urge that never stops, {for}.",
            "There's pressure above my pubic bone and it stings, it began {ago}.",
            "I'm running to the loo for three drops, it feels like broken glass, {for}.",
            "Cloudy water, constant urge, hot needles at the end, {for} now.",
        ),
        notes=(
            "No fever and no back pain.",
            "I'm not pregnant.",
            "It's the second time this year.",
        ),
        tried=("cranberry juice", "lots of tea", "a hot-water bottle"),
        asks=(
            (
                "Do I need antibiotics?",
                "Half clear without antibiotics, a short course clears it faster.",
            ),
            ("Should I bring a sample?", "A sample is needed only if it keeps coming back."),
            ("Does cranberry work?", "Cranberry prevents a little, but treats nothing."),
        ),
        cause=("a bladder infection", "simple cystitis"),
        do=(
            "Drink two litres a day and go when you need to.",
            "Take ibuprofen for the burning.",
            "Pick up the three-day antibiotic if no better by tomorrow.",
        ),
        avoid=("Do not hold it in.", "Leave out coffee and sparkling wine for now."),
        see=(
            "fever, back pain or shivering starts",
            "it is still burning two days after the antibiotic",
        ),
    ),
    Topic(
        name="missed_pill",
        lasting=Lasting.HOURS,
        sex="f",
        ages=(18, 42),
        says=(
            "I forgot last night's pill and only noticed at lunch.",
            "I threw up two hours after taking the pill, does it count?",
            "My pill is thirteen hours late, it's in the second week of the pack.",
            "Two pills are still in the blister from the weekend, and I had sex on Friday.",
            "The travel alarm failed and my contraceptive pill is most of a day late, third week.",
        ),
        notes=(
            "It's a combined pill.",
            "We also used a condom.",
            "I've taken all the others on time.",
        ),
        tried=("taking it right away", "reading the leaflet", "asking a friend"),
        asks=(
            ("Am I still protected?", "With one missed pill protection holds."),
            (
                "Do I need the morning-after pill?",
                "It is needed only after two missed pills in week one.",
            ),
            ("Should I take two at once?", "Yes, take the missed one now, even if that means two."),
        ),
        cause=("a late pill, which is easily put right", "a missed pill"),
        do=(
            "Take the missed pill now and the next at the usual time.",
            "Use condoms for the next seven days.",
            "In week three, start the next pack without a break.",
        ),
        avoid=("Do not stop the pack.", "Do not take more than two on one day."),
        see=("two or more were missed in the first week", "the next bleed does not come"),
    ),
    Topic(
        name="morning_sickness",
        lasting=Lasting.WEEKS,
        sex="f",
        ages=(20, 42),
        says=(
            "I'm eight weeks pregnant and sick from morning till night, {for}.",
            "Pregnant, week ten, and even water makes me gag, {for} now.",
            "I throw up before breakfast every day since I'm expecting, {for}.",
            "The smell of coffee sends me running, I'm in my ninth week.",
            "Nobody told me it lasts all day. Seven weeks along and I retch at the fridge, {for}.",
        ),
        notes=("I've lost one kilo.", "I can keep small meals down.", "It's my first baby."),
        tried=("ginger tea", "dry crackers", "wrist bands"),
        asks=(
            ("Does it harm the baby?", "The baby takes what it needs and comes to no harm."),
            ("Is there a safe tablet?", "Doxylamine with B6 is safe and we can prescribe it."),
            ("When will it stop?", "It mostly stops by week fourteen."),
        ),
        cause=("sickness of early pregnancy", "morning sickness"),
        do=(
            "Eat a dry biscuit before getting up.",
            "Take small, cool snacks every two hours.",
            "Sip fluids between meals.",
        ),
        avoid=(
            "Avoid fat, strong smells and an empty stomach.",
            "Move the iron tablet to the evening or pause it.",
        ),
        see=(
            "nothing stays down for a day or urine turns dark",
            "{you} lose{s} more than three kilos",
        ),
    ),
    Topic(
        name="night_urination",
        lasting=Lasting.MONTHS,
        sex="m",
        ages=(52, 84),
        others=Others.ADULT,
        other_ages=(52, 84),
        says=(
            "I get up four times a night to pass water and the stream is weak, {for}.",
            "It takes ages to start and then it dribbles, {for} now. I'm told that's my age.",
            "{who} is up every two hours for the toilet and tired all day, {for}.",
            "My bladder never feels empty and I plan my walks by lavatories, {for}.",
            "The theatre is out of the question, I couldn't sit through an act without the gents, "
            "{for}.",
        ),
        notes=(
            "There's no blood and no burning.",
            "{i} drink{s} a beer at night.",
            "{i} take{s} a water tablet in the evening.",
        ),
        tried=("pumpkin seeds", "drinking nothing after six", "saw palmetto"),
        asks=(
            ("Is it the prostate?", "An enlarged prostate is the usual cause."),
            ("Could it be cancer?", "These symptoms rarely come from cancer, but we will test."),
            ("Are there tablets?", "Tamsulosin helps within days in most men."),
        ),
        cause=("an enlarged prostate", "a benign, enlarged prostate"),
        do=(
            "Keep a bladder diary for three days.",
            "Take the water tablet in the morning.",
            "Book a visit with a urine and blood test.",
        ),
        avoid=("Cut down beer and coffee after five.", "No cold remedies with decongestant."),
        see=("there is blood, fever or no urine at all", "it gets worse over weeks"),
    ),
    Topic(
        name="leaky_bladder",
        lasting=Lasting.MONTHS,
        sex="f",
        ages=(30, 80),
        says=(
            "I leak when I laugh, sneeze or jump, {for}.",
            "Since the birth of my second child I can't run without a pad.",
            "I lose a little urine when I lift my grandchild, {for} now.",
            "The trampoline at the party was a mistake. It's been like this {for}.",
            "A sneeze on the bus is enough to make me wish for spare clothes, {for}.",
        ),
        notes=(
            "There's no burning.",
            "At night it's dry.",
            "I had a chest cold with much coughing.",
        ),
        tried=("pads", "drinking less", "crossing my legs"),
        asks=(
            ("Is there an operation?", "Training helps two out of three, so we try that first."),
            ("Do the exercises really work?", "Done daily for three months, they work."),
            ("Is it normal after birth?", "It is common after birth, and it can be treated."),
        ),
        cause=("a weak pelvic floor", "stress incontinence"),
        do=(
            "Squeeze the pelvic floor ten times, three times a day.",
            "Tighten before a cough or sneeze.",
            "Book our pelvic floor physiotherapist.",
        ),
        avoid=("Do not drink less, strong urine irritates.", "Leave out jumping for three months."),
        see=("soon: there is blood, burning or a bulge", "three months of training do not help"),
    ),
)
