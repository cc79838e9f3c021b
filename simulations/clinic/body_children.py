"""Body of the fictional records: children at nursery and school."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="child_fever",
        lasting=Lasting.DAYS,
        others=Others.CHILD,
        other_ages=(1, 8),
        says=(
            "{who} has had a temperature of 39.2 {for} and just wants to be carried.",
            "{who} is hot and floppy in the evenings, 39 degrees, {for} now.",
            "My mother-in-law is here and panics because {who} has a fever, {for}.",
            "{who} came home from nursery with fever {ago}, by day {he} plays a little.",
            "The thermometer in {who}'s ear says 39.4 each night {for}, mornings are fine.",
        ),
        notes=(
            "{he} drinks well and has wet nappies or goes to the toilet.",
            "There's no rash.",
            "{he} has a runny nose.",
        ),
        tried=("cool wraps on the legs", "paracetamol once", "an extra blanket"),
        asks=(
            ("When is fever dangerous?", "How {he} behaves matters more than the number."),
            (
                "Can {he} have paracetamol and ibuprofen?",
                "Use one of the two, by weight, and stay with it.",
            ),
            ("Should we wake {him} to give medicine?", "Let {him} sleep, rest helps more."),
        ),
        cause=("a viral infection", "a fever from a virus"),
        do=(
            "Offer a drink every half hour.",
            "Give paracetamol by weight if {he} is miserable.",
            "Dress {him} lightly and keep the room cool.",
        ),
        avoid=("No cold baths and no thick blankets.", "Never give aspirin to a child."),
        see=(
            "{he} is drowsy, breathes hard, or has spots that do not fade",
            "the fever lasts longer than three days",
        ),
    ),
    Topic(
        name="chickenpox",
        lasting=Lasting.DAYS,
        others=Others.CHILD,
        other_ages=(2, 9),
        says=(
            "{who} is covered in itchy spots and little blisters, {for}.",
            "It started with three spots on the tummy and now {who} looks like a strawberry, "
            "{for}.",
            "{who} has blisters in the hair and on the back, a friend had chickenpox two weeks "
            "ago.",
            "Spots and fever {for}, and {who} scratches non-stop.",
            "New bubbles each morning on {who}, some already crusted, {for} now.",
        ),
        notes=(
            "{he} has 38.3.",
            "{his} little sister is four weeks old.",
            "One spot is in the mouth.",
        ),
        tried=("calamine", "mittens at night", "a cool bath"),
        asks=(
            ("How long is it catching?", "It is catching until the last blister has a crust."),
            ("Can we fly next week?", "Flying is possible once all spots are crusted."),
            ("Is ibuprofen okay?", "Give paracetamol, ibuprofen is not good in chickenpox."),
        ),
        cause=("chickenpox", "chickenpox in the usual course"),
        do=(
            "Cut nails short and dab on a cooling lotion.",
            "Give paracetamol for fever, by weight.",
            "Bathe {him} lukewarm and pat dry.",
        ),
        avoid=("No ibuprofen and no aspirin.", "Keep away from pregnant women and newborns."),
        see=(
            "spots turn hot with pus, or {he} is drowsy or unsteady",
            "fever comes back after day four",
        ),
    ),
    Topic(
        name="head_lice",
        lasting=Lasting.DAYS,
        others=Others.CHILD,
        other_ages=(4, 11),
        says=(
            "The school sent a letter and now I've found lice on {who}.",
            "{who} scratches behind the ears and there are tiny eggs stuck to the hair, {for}.",
            "Something walked across {who}'s parting while I was plaiting. Help.",
            "We had lice {ago}, treated them, and {who} has them again.",
            "I combed {who} over the sink and counted eleven small guests.",
        ),
        notes=(
            "{he} has very thick hair.",
            "Nobody else itches so far.",
            "It's the second time this term.",
        ),
        tried=("mayonnaise overnight", "a metal comb", "tea tree shampoo"),
        asks=(
            ("Must {he} stay at home?", "School is fine after the first treatment."),
            ("Does everything have to be washed?", "Washing pillowcases and brushes is enough."),
            ("Do we all treat?", "Treat only those with living lice."),
        ),
        cause=("head lice", "head lice, no sign of poor hygiene"),
        do=(
            "Apply dimeticone today and again in nine days.",
            "Comb wet hair with conditioner every four days.",
            "Check the whole family with the comb.",
        ),
        avoid=("No mayonnaise, vinegar or petrol.", "Do not spray the sofa."),
        see=("soon: the scalp is crusted or weeping", "living lice are there after two treatments"),
    ),
    Topic(
        name="hand_foot_mouth",
        lasting=Lasting.DAYS,
        others=Others.CHILD,
        other_ages=(1, 6),
        says=(
            "{who} has blisters on hands and feet and sores in the mouth, {for}.",
            "{who} won't eat, dribbles and has spots on the soles, {for} now.",
            "After a day of fever {who} came out in little grey blisters on the palms.",
            "Nursery says hand, foot and mouth is going round, and {who} has it, {for}.",
            "Red dots round {who}'s mouth, on fingers and toes, {for}, and supper ends in tears.",
        ),
        notes=("{he} takes cold milk.", "The fever has gone.", "I have a sore throat now myself."),
        tried=("ice lollies", "a mouth gel", "soup"),
        asks=(
            ("When can {he} go back?", "{he} can go back once well and without fever."),
            ("Can adults get it?", "Adults can catch it, wash hands after nappies and tissues."),
            ("Is it dangerous in pregnancy?", "The risk is small, but tell your midwife."),
        ),
        cause=("hand, foot and mouth disease", "hand, foot and mouth, a virus"),
        do=(
            "Offer cool drinks, yoghurt and ice lollies.",
            "Give paracetamol by weight before meals.",
            "Leave the blisters alone to dry.",
        ),
        avoid=("No juice, salt or hot food.", "Do not prick the blisters."),
        see=(
            "{he} has not passed water for eight hours or is limp",
            "fever lasts longer than three days",
        ),
    ),
    Topic(
        name="glue_ear",
        lasting=Lasting.WEEKS,
        others=Others.CHILD,
        other_ages=(2, 7),
        says=(
            "{who} says what all the time and turns up the television, {for}.",
            "Since the last ear infection {who} hears badly, {for}.",
            "The nursery teacher noticed that {who} doesn't react when called, {for} now.",
            "{who} shouts rather than speaks and pulls at both ears, {for}.",
            "I could drop a pan behind {who} and get no answer, it's been so {for}.",
        ),
        notes=("There's no pain.", "{he} snores with an open mouth.", "Speech is a bit unclear."),
        tried=("nose drops", "a balloon for the nose", "an onion bag"),
        asks=(
            ("Does {he} need grommets?", "Grommets come up only after three months."),
            ("Will speech suffer?", "Speech catches up once the fluid has gone."),
            ("Is swimming okay?", "Swimming is fine."),
        ),
        cause=("fluid behind the eardrum, glue ear", "glue ear after an infection"),
        do=(
            "Blow up the nose balloon three times a day.",
            "Face {him} and speak clearly, without background noise.",
            "Book a hearing test in six weeks.",
        ),
        avoid=("No smoking at home.", "Antibiotics and drops do not help here."),
        see=("there is pain, fever or discharge", "hearing is no better after three months"),
    ),
    Topic(
        name="toddler_eating",
        lasting=Lasting.WEEKS,
        others=Others.CHILD,
        other_ages=(1, 4),
        says=(
            "{who} eats nothing but pasta and bananas, {for}.",
            "Every meal is a battle, {who} turns away from anything green, {for} now.",
            "{who} lives on air and milk, and my husband's mother says I'm too soft.",
            "I've counted, {who} ate four peas this week.",
            "Cooking feels pointless when {who} drops it all to the dog, {for}.",
        ),
        notes=(
            "{he} is lively and growing.",
            "{he} drinks half a litre of milk a day.",
            "At nursery {he} eats more.",
        ),
        tried=("cutting shapes", "a cartoon at the table", "dessert as a bribe"),
        asks=(
            ("Does {he} need vitamins?", "Vitamin D is enough in a child who grows."),
            ("Is {he} getting enough?", "A child who grows and plays gets enough."),
            ("Should I insist?", "Insisting makes it worse."),
        ),
        cause=("ordinary picky eating", "a normal picky phase"),
        do=(
            "Offer small portions and let {him} decide how much.",
            "Put one known food beside each new one.",
            "Eat together and end the meal after twenty minutes.",
        ),
        avoid=("No bribes, no screens, no second menu.", "Cut milk to two cups a day."),
        see=("soon: {he} loses weight, gags or is always tired", "growth falls off the curve"),
    ),
)
