"""Body of the fictional records: babies, and small children at night."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="nappy_rash",
        lasting=Lasting.DAYS,
        others=Others.BABY,
        other_ages=(2, 20),
        says=(
            "{who} has a fiery red bottom and screams at every change, {for}.",
            "The nappy area of {who} is raw and shiny {for}.",
            "{who} had the runs and now the skin under the nappy is sore, {for}.",
            "There are red patches with small dots around {who}'s groin, {for}.",
            "Poor {who}, the bottom is red as a baboon's and wiping makes {him} shriek, {for}.",
        ),
        notes=(
            "We switched nappies last week.",
            "{he} feeds as usual.",
            "The folds are red as well.",
        ),
        tried=("talcum powder", "scented wipes", "zinc cream"),
        asks=(
            ("Is it a fungus?", "Dots at the edge and red folds suggest yeast."),
            (
                "Which cream should we use?",
                "Zinc paste for plain redness, clotrimazole if there are dots.",
            ),
            ("Are cloth nappies better?", "Frequent changes matter more than the kind of nappy."),
        ),
        cause=("nappy rash", "nappy rash, perhaps with yeast"),
        do=(
            "Change every two hours and clean with water.",
            "Let {him} kick without a nappy several times a day.",
            "Put on zinc paste thickly at each change.",
        ),
        avoid=("No scented wipes and no powder.", "Do not rub, dab instead."),
        see=("blisters, pus or fever appear", "it is no better after five days"),
    ),
    Topic(
        name="baby_colic",
        lasting=Lasting.WEEKS,
        others=Others.BABY,
        other_ages=(1, 3),
        says=(
            "{who} cries from six to nine every evening and nothing helps, {for}.",
            "{who} pulls up the legs, goes red and screams for hours, {for} now.",
            "We take turns walking {who} up and down the corridor each night, {for}.",
            "By dinner time {who} turns into a siren, it began {ago}.",
            "I'm crying as much as {who} is, evening after evening {for}.",
        ),
        notes=(
            "{he} is gaining weight well.",
            "In the mornings {he} is all smiles.",
            "{he} is breastfed.",
        ),
        tried=("fennel tea", "drops for wind", "driving round the block"),
        asks=(
            ("Is something wrong with {his} tummy?", "A baby who thrives and smiles is not ill."),
            ("Should I stop drinking milk?", "Changing your diet rarely helps."),
            ("When will it end?", "It is mostly over by four months."),
        ),
        cause=("colic, the evening crying of young babies", "colic"),
        do=(
            "Carry {him} in a sling in dim light.",
            "Burp {him} upright after each feed.",
            "Hand over to someone else for an hour a day.",
        ),
        avoid=(
            "Never shake a baby, put {him} down and breathe.",
            "No honey, no tea and no early solids.",
        ),
        see=(
            "there is fever, green vomit or blood in the nappy",
            "{he} feeds badly or stops gaining weight",
        ),
    ),
    Topic(
        name="teething",
        lasting=Lasting.DAYS,
        others=Others.BABY,
        other_ages=(5, 18),
        says=(
            "{who} dribbles, chews on everything and wakes every hour, {for}.",
            "{who} is grumpy with one red cheek and swollen gums, {for}.",
            "Two teeth are on the way and {who} won't take the bottle, {for} now.",
            "{who} bites my shoulder and whines all day, it began {ago}.",
            "Bibs by the dozen, fists in the mouth and no sleep, {who} has been like this {for}.",
        ),
        notes=(
            "{his} temperature is 37.6.",
            "{he} had softer stools yesterday.",
            "A white edge shows in front.",
        ),
        tried=("an amber necklace", "a gel", "a frozen carrot"),
        asks=(
            ("Does teething cause fever?", "Teething gives no fever over 38."),
            ("Is numbing gel safe?", "We advise against numbing gels for babies."),
            ("Should {he} have paracetamol?", "A dose by weight at bedtime is fine on bad days."),
        ),
        cause=("teething", "teeth on their way"),
        do=(
            "Give a cool teething ring from the fridge.",
            "Rub the gum with a clean finger.",
            "Dab the chin dry and use a barrier cream.",
        ),
        avoid=(
            "No necklaces and no frozen things.",
            "No numbing gels or teething biscuits with sugar.",
        ),
        see=(
            "fever is over 38.5 or {he} drinks less than half",
            "diarrhoea or a rash goes with it",
        ),
    ),
    Topic(
        name="cradle_cap",
        lasting=Lasting.WEEKS,
        others=Others.BABY,
        other_ages=(1, 9),
        says=(
            "{who} has yellow, greasy scales all over the scalp, {for}.",
            "There's a crust like cornflakes on {who}'s head, {for} now.",
            "{who} has flaky patches on the head and in the eyebrows, {for}.",
            "My aunt says {who}'s scaly head comes from bad milk. It's been there {for}.",
            "I keep finding waxy flakes in {who}'s cap, the scalp looks like old cheese, {for}.",
        ),
        notes=("{he} doesn't scratch.", "The skin beneath is pink.", "It doesn't smell."),
        tried=("picking it off", "a dry brush", "breast milk"),
        asks=(
            ("Does it itch or hurt?", "It bothers parents more than the baby."),
            ("Is it eczema?", "Eczema itches, cradle cap does not."),
            ("Will it go?", "It goes by itself before the first birthday."),
        ),
        cause=("cradle cap", "cradle cap, which is harmless"),
        do=(
            "Rub in almond oil, leave it for an hour, then wash.",
            "Brush the flakes out with a soft brush.",
            "Repeat twice a week.",
        ),
        avoid=("Do not pick or scrape.", "No dandruff shampoo without asking us."),
        see=("soon: it weeps, smells or spreads to the body", "{he} scratches and sleeps badly"),
    ),
    Topic(
        name="bedwetting",
        lasting=Lasting.MONTHS,
        others=Others.CHILD,
        other_ages=(5, 9),
        says=(
            "{who} still wets the bed four nights a week.",
            "{who} was dry and has been wetting again {for} since the move.",
            "We change sheets nearly every night, {who} sleeps like a stone.",
            "{who} is invited to a sleepover and terrified because of the bed.",
            "The washing machine never stops, {who} has never been dry at night.",
        ),
        notes=(
            "By day {he} is dry.",
            "{his} father was late too.",
            "{he} drinks most in the evening.",
        ),
        tried=("waking {him} at eleven", "stickers", "no drinks after five"),
        asks=(
            ("Is it a bladder problem?", "A child who is dry by day has a healthy bladder."),
            ("Should we use an alarm?", "A bed alarm works best, from about seven years on."),
            (
                "Is there a tablet for the sleepover?",
                "A tablet for single nights exists, ask us in time.",
            ),
        ),
        cause=("bedwetting, a matter of ripening", "deep sleep and a bladder that ripens late"),
        do=(
            "Let {him} drink plenty by day and little after supper.",
            "Have {him} go to the toilet twice before bed.",
            "Praise dry nights and stay calm about wet ones.",
        ),
        avoid=("No punishment and no teasing.", "Waking at night does not train the bladder."),
        see=("{he} is thirsty, loses weight or it burns", "{he} wets by day as well"),
    ),
    Topic(
        name="croup",
        lasting=Lasting.HOURS,
        others=Others.CHILD,
        other_ages=(1, 4),
        says=(
            "{who} woke at midnight with a cough like a seal and a hoarse voice.",
            "{who} barks when coughing and made a rasping noise breathing in, {for}.",
            "Last night {who} sounded like a dog and we were scared stiff. Now it's better.",
            "{who} had a cold and suddenly this barking cough, {for}.",
            "At two in the morning {who} coughed like a sea lion, on the balcony it eased.",
        ),
        notes=(
            "Calm, {he} breathes quietly.",
            "{he} has 38.1.",
            "{his} lips were pink all the time.",
        ),
        tried=("steam in the bathroom", "cold night air", "honey"),
        asks=(
            ("Will it come back tonight?", "It often returns for two or three nights."),
            ("Should we have gone to hospital?", "Noise at rest is the sign to go, otherwise not."),
            ("Is there a medicine?", "One dose of steroid syrup helps, please collect it today."),
        ),
        cause=("croup, a swollen voice box", "croup"),
        do=(
            "Stay calm and hold {him} upright.",
            "Wrap {him} up and go to the open window.",
            "Give the steroid syrup if the bark returns.",
        ),
        avoid=(
            "No steam, it does not help and burns.",
            "Avoid upsetting {him}, crying makes it worse.",
        ),
        see=(
            "112: breathing is noisy at rest or lips turn blue",
            "112: {he} drools or cannot swallow",
        ),
    ),
)
