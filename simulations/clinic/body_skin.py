"""Body of the fictional records: skin that itches, peels or burns."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="eczema",
        lasting=Lasting.WEEKS,
        others=Others.ANY,
        says=(
            "The skin in the bends of my elbows is red, dry and itches like mad, {for}.",
            "My hands are cracked and flaky {for}, I wash them forty times a day at work.",
            "{who} scratches {his} knees bloody at night, the patches have been there {for}.",
            "Itchy, scaly patches on my neck keep coming back, this time {for}.",
            "I wake up having clawed at my wrists, the skin there is rough as bark, {for}.",
        ),
        notes=("Wool makes it worse.", "There's hay fever in the family.", "It isn't weeping."),
        tried=("coconut oil", "a perfumed lotion", "hydrocortisone now and then"),
        asks=(
            ("Are steroid creams harmful?", "Used for one to two weeks, the cream is safe."),
            ("Is it food?", "Food is rarely the cause after infancy."),
            ("What soap should {i} use?", "Use a soap-free wash, lukewarm."),
        ),
        cause=("eczema", "a flare of eczema"),
        do=(
            "Put on a thick, plain cream at least twice a day.",
            "Use hydrocortisone on red patches for seven days.",
            "Wear cotton and keep nails short.",
        ),
        avoid=(
            "Avoid perfumed products and long hot showers.",
            "Leave wool and tight sleeves in the drawer.",
        ),
        see=(
            "it weeps, crusts yellow or {you} {have} a fever",
            "two weeks of treatment do not calm it",
        ),
    ),
    Topic(
        name="athletes_foot",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        ages=(18, 70),
        says=(
            "The skin between my toes is white, peeling and itchy, {for}.",
            "My feet itch and smell and there are cracks by the little toe, {for}.",
            "{who} has peeling soles and leaves flakes on the bathmat, {for} now.",
            "I picked something up at the gym showers, burning between the toes {for}.",
            "Taking off my work boots shows soggy, split skin between two toes, it began {ago}.",
        ),
        notes=("The nails look normal.", "{i} wear{s} safety shoes all day.", "It's on both feet."),
        tried=("talcum powder", "vinegar baths", "a cream for three days"),
        asks=(
            ("How long must the cream be used?", "Go on for two weeks after it looks healed."),
            ("Is it catching?", "It spreads on wet floors, so wear slippers there."),
            ("Are tablets better?", "Tablets are only for nails or stubborn cases."),
        ),
        cause=("athlete's foot, a fungus", "athlete's foot"),
        do=(
            "Use terbinafine cream once a day for two weeks.",
            "Dry well between the toes, with a towel for feet only.",
            "Change socks daily and wash them at sixty degrees.",
        ),
        avoid=(
            "Do not wear the same shoes two days running.",
            "No barefoot walking in changing rooms.",
        ),
        see=("the foot is red, hot and swollen", "{you} {have} diabetes or a month of cream fails"),
    ),
    Topic(
        name="acne",
        lasting=Lasting.MONTHS,
        others=Others.CHILD,
        other_ages=(12, 17),
        ages=(18, 38),
        says=(
            "My chin and jaw break out in deep spots every month, {for}.",
            "I thought spots end with school. I've had them on cheeks and back {for}.",
            "{who} won't leave the house because of {his} pimples, {for} now.",
            "Blackheads and red lumps all over my forehead {for}, and I'm tired of hiding them.",
            "Photos of me need editing these days, angry pimples along the jaw, {for}.",
        ),
        notes=(
            "Some of them leave marks.",
            "It's worse before exams.",
            "The skin gets oily by noon.",
        ),
        tried=("toothpaste", "a harsh scrub", "tea tree oil"),
        asks=(
            ("Is it chocolate?", "Chocolate plays a small part at most."),
            (
                "Is there something on prescription?",
                "If gel fails after eight weeks we can prescribe more.",
            ),
            ("Will there be scars?", "Early treatment and no squeezing prevent most scars."),
        ),
        cause=("acne", "ordinary acne"),
        do=(
            "Use benzoyl peroxide gel every other night at first.",
            "Wash with a mild cleanser twice a day.",
            "Give it eight weeks before judging.",
        ),
        avoid=("No squeezing and no scrubs.", "Avoid greasy creams and hair oils."),
        see=("soon: lumps are deep and painful or leave scars", "it weighs on {your} mood"),
    ),
    Topic(
        name="hives",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "I'm covered in itchy raised wheals that move around, {for}.",
            "Welts like nettle stings come and go all over my belly and arms, {for}.",
            "{who} came out in big itchy blotches {ago} and they keep changing place.",
            "An itchy rash appears for a few hours, vanishes and pops up somewhere else, {for}.",
            "It looks as if I'd rolled in nettles, one patch fades while the next one rises, "
            "{for}.",
        ),
        notes=(
            "Breathing is fine.",
            "{i} had a cold just before.",
            "There's no new soap or food that {i} know{s} of.",
        ),
        tried=("a cool shower", "calamine", "one allergy tablet"),
        asks=(
            ("What {am} {i} allergic to?", "Most hives follow a virus and not an allergy."),
            ("How long does it last?", "It usually burns out within six weeks."),
            ("Can {i} take two tablets?", "A second tablet a day is fine for adults."),
        ),
        cause=("hives", "hives, probably after a virus"),
        do=(
            "Take cetirizine every day, not just when it itches.",
            "Cool the skin with a damp cloth.",
            "Take a photo of the worst patches.",
        ),
        avoid=(
            "Avoid heat, stress and tight clothes.",
            "Leave out ibuprofen and aspirin for now.",
        ),
        see=(
            "112: lips or tongue swell or breathing is hard",
            "it goes on for more than six weeks",
        ),
    ),
    Topic(
        name="sunburn",
        lasting=Lasting.HOURS,
        others=Others.ANY,
        says=(
            "I fell asleep on the beach and my back is scarlet and burning {for}.",
            "My shoulders have blisters from the sun, it's been like that {for}.",
            "{who} stayed out too long and {his} neck and arms are bright red, {for}.",
            "I got badly burnt at a barbecue and can't bear a shirt, {for}.",
            "Note to self, clouds don't help: my legs are red, tight and hot {for}.",
        ),
        notes=(
            "The blisters are small and closed.",
            "{i} {am} drinking well.",
            "No fever or shivers.",
        ),
        tried=("yoghurt", "after-sun lotion", "a cold shower"),
        asks=(
            ("Should {i} pop the blisters?", "Leave blisters closed, they protect the skin."),
            ("Can {i} go out tomorrow?", "Keep the skin fully covered for a week."),
            ("Is cortisone cream useful?", "Cortisone brings little here, cooling does more."),
        ),
        cause=("a sunburn that will heal by itself", "sunburn"),
        do=(
            "Cool with wet cloths for fifteen minutes, several times.",
            "Use a plain gel or lotion from the fridge.",
            "Take ibuprofen today and drink plenty.",
        ),
        avoid=(
            "Do not use butter, yoghurt or ice.",
            "Stay out of the sun until the redness has gone.",
        ),
        see=(
            "blisters are large, or fever and vomiting start",
            "the skin is still sore after a week",
        ),
    ),
    Topic(
        name="shingles",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        ages=(45, 84),
        says=(
            "A strip of blisters runs from my spine to my belly and burns, it came {ago}.",
            "First it hurt on one side of my chest, now there's a rash just there, {for}.",
            "{who} has a painful belt of little blisters on one side, {for} now.",
            "My skin stings as if scalded on the left side, with spots that came {ago}.",
            "One half of my waist is on fire, and this morning bubbles appeared in a row, pain "
            "{for}.",
        ),
        notes=(
            "It stops exactly at the middle.",
            "{i} can't bear {my} shirt on it.",
            "{my} daughter is pregnant.",
        ),
        tried=("zinc lotion", "paracetamol", "ice in a towel"),
        asks=(
            ("Is it catching?", "Others can catch chickenpox from the blisters, so cover them."),
            ("{do} {i} need tablets?", "Tablets work if started within three days, so ring today."),
            ("Will the pain stay?", "For most people the pain fades within a month."),
        ),
        cause=("shingles, the old chickenpox virus", "shingles"),
        do=(
            "Ring us today for the antiviral tablets.",
            "Cover the rash with a loose dressing.",
            "Take paracetamol regularly, day and night.",
        ),
        avoid=(
            "Keep away from pregnant women and newborns.",
            "No antibiotic powder or thick creams on it.",
        ),
        see=("it is near the eye or the ear", "the rash spreads or pain is not bearable"),
    ),
    Topic(
        name="ringworm",
        lasting=Lasting.WEEKS,
        others=Others.ANY,
        says=(
            "I've a round red patch on my forearm with a scaly edge that grows, {for}.",
            "A ring-shaped rash on my thigh has doubled in size {for}.",
            "{who} has a coin-sized ring on {his} belly, we got a kitten {ago}.",
            "There's a circle on my neck, clear in the middle and itchy, {for}.",
            "Someone might have stamped me with a cup, a perfect red ring on my arm, {for}.",
        ),
        notes=(
            "It itches a little.",
            "There are two smaller ones now.",
            "The cat has a bald spot.",
        ),
        tried=("hydrocortisone", "hand cream", "covering it with a plaster"),
        asks=(
            ("Is there a worm in it?", "There is no worm, it is a skin fungus."),
            ("Must the cat go?", "The cat only needs a visit to the vet."),
            ("Is it okay to go swimming?", "Swim again after a week of cream."),
        ),
        cause=("ringworm, a fungus of the skin", "ringworm"),
        do=(
            "Rub clotrimazole cream in twice a day for three weeks.",
            "Treat two centimetres beyond the edge as well.",
            "Have the pet checked by a vet.",
        ),
        avoid=("No cortisone cream, it feeds the fungus.", "Do not share towels or brushes."),
        see=("soon: it is on the scalp or in the beard", "three weeks of cream do not clear it"),
    ),
    Topic(
        name="tick_bite",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "I pulled a tick from behind my knee {ago} and there's a small red dot.",
            "After gardening I found a tick on my belly. I think the head is still in.",
            "{who} had a tick on {his} neck after a walk in the woods, we got it out {ago}.",
            "A tick sat on my thigh for maybe a day, removed {ago}, now it itches.",
            "My dog and I both came home with ticks, mine was in the armpit and came off {ago}.",
        ),
        notes=("The spot is the size of a lentil.", "No fever, no ring around it.", "It was tiny."),
        tried=("tweezers", "oil, sadly", "a disinfectant"),
        asks=(
            ("Should {i} get antibiotics now?", "Antibiotics are given only if a ring appears."),
            ("What if the head is still in?", "A bit of mouthpart falls out by itself."),
            ("Should the tick be tested?", "Testing the tick does not help us."),
        ),
        cause=("a harmless reaction to a tick bite", "a plain tick bite"),
        do=(
            "Draw round the spot with a pen and take a photo.",
            "Look at it once a week for six weeks.",
            "Clean it once, then leave it alone.",
        ),
        avoid=("Next time no oil or glue on the tick.", "Do not dig for what is left."),
        see=(
            "a red ring grows beyond five centimetres",
            "fever, aching joints or a drooping face follow",
        ),
    ),
)
