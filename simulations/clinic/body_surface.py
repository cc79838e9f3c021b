"""Body of the fictional records: stings, warts, nails and scalp."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="wasp_sting",
        lasting=Lasting.HOURS,
        others=Others.ANY,
        says=(
            "A wasp got me on the hand and it has been swelling {for}.",
            "I was stung on the foot and now the ankle is puffy and hot, {for}.",
            "{who} was stung on the arm and it's the size of a plum, {for}.",
            "Two stings on my neck from the garden, red, hot and itchy {for}.",
            "My ring finger looks like a sausage after a wasp in the jam, {for}.",
        ),
        notes=(
            "Breathing and swallowing are fine.",
            "{i} {have} been stung before without trouble.",
            "The redness is a hand's width.",
        ),
        tried=("half an onion", "vinegar", "ice"),
        asks=(
            ("Is that an allergy?", "A large local swelling is common and not dangerous."),
            ("Is it infected?", "Swelling in the first two days is venom, not infection."),
            ("{do} {i} need an emergency pen?", "A pen is only for reactions of the whole body."),
        ),
        cause=("a large local reaction to a sting", "swelling from the venom"),
        do=(
            "Cool it for ten minutes every hour and raise the limb.",
            "Take cetirizine once a day for three days.",
            "Take off rings at once.",
        ),
        avoid=("Do not scratch or squeeze it.", "Leave onions and vinegar in the kitchen."),
        see=(
            "112: lips swell, breathing is hard or {you} feel{s} faint",
            "redness keeps spreading after three days",
        ),
    ),
    Topic(
        name="verruca",
        lasting=Lasting.MONTHS,
        others=Others.ANY,
        says=(
            "I have a hard spot with black dots on my heel that hurts to walk on, {for}.",
            "Three warts on my fingers, they've been there {for} and they multiply.",
            "{who} has a wart under {his} foot since swimming lessons, {for}.",
            "There's something like a cauliflower on my thumb and it bleeds when I knock it.",
            "Each step feels as if I had a pebble in my sock, a wart on the sole, {for}.",
        ),
        notes=(
            "It hurts when squeezed from the sides.",
            "It has grown a bit.",
            "Nobody else has one.",
        ),
        tried=("duct tape", "a freezing spray", "banana skin"),
        asks=(
            ("Can you freeze it off?", "Freezing works about as well as acid, and hurts more."),
            ("Will it go by itself?", "Two thirds vanish within two years."),
            ("Is swimming allowed?", "Swimming is fine with a waterproof plaster."),
        ),
        cause=("a wart", "a harmless wart virus in the skin"),
        do=(
            "Paint on salicylic acid every evening for twelve weeks.",
            "Soak and file the top once a week.",
            "Cover it with a plaster in between.",
        ),
        avoid=("Do not pick it or share the file.", "No acid on the face or on thin skin."),
        see=(
            "soon: it bleeds, changes colour or {you} {have} diabetes",
            "twelve weeks of acid bring nothing",
        ),
    ),
    Topic(
        name="ingrown_nail",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        says=(
            "My big toe is red and sore along the nail and shoes are agony, {for}.",
            "I cut my nail too short and now the corner digs in, it began {ago}.",
            "{who} limps because of {his} big toe, the nail has grown into the side.",
            "Pus came out next to my toenail this morning, sore {for}.",
            "The blanket on my big toe is too much, the nail edge is buried in puffy skin, {for}.",
        ),
        notes=(
            "It throbs at night.",
            "{i} play{s} football.",
            "The redness stops at the first joint.",
        ),
        tried=("digging the corner out", "a plaster", "tea tree oil"),
        asks=(
            (
                "Does the nail have to come off?",
                "At most we take a thin strip, under local anaesthetic.",
            ),
            ("Antibiotics?", "Foot baths usually do more than antibiotics."),
            ("How should {i} cut the nails?", "Cut straight across and not too short."),
        ),
        cause=("an ingrown toenail", "a nail edge that has grown in"),
        do=(
            "Soak the foot in warm salt water twice a day.",
            "Push a wisp of cotton wool under the corner.",
            "Wear open or wide shoes.",
        ),
        avoid=("Do not dig at the corner.", "No tight socks or pointed shoes."),
        see=(
            "redness climbs up the foot or {you} {have} diabetes",
            "it is still sore after two weeks",
        ),
    ),
    Topic(
        name="dandruff",
        lasting=Lasting.MONTHS,
        others=Others.ADULT,
        ages=(18, 75),
        says=(
            "My scalp flakes so much I've stopped wearing black, {for}.",
            "Itchy head, greasy scales at the hairline and beside my nose, {for}.",
            "{who} has flakes in {his} eyebrows and scratches {his} head all day, {for}.",
            "I look as if I'd been out in the snow, {for}, whatever shampoo I buy.",
            "My barber pointed out red, scaly patches on my scalp, and yes, it itches, {for}.",
        ),
        notes=(
            "It's worse in winter.",
            "There's no hair loss.",
            "{i} wash{es} it every third day.",
        ),
        tried=("baby shampoo", "olive oil", "a fancy salon rinse"),
        asks=(
            ("Is it a fungus?", "A harmless yeast on the skin plays a part."),
            ("Will {i} lose hair?", "Hair is not lost from this."),
            ("Which shampoo works?", "Ketoconazole shampoo works best."),
        ),
        cause=("dandruff, or seborrhoeic eczema", "an oily scalp with yeast"),
        do=(
            "Use ketoconazole shampoo twice a week for four weeks.",
            "Leave it on for five minutes before rinsing.",
            "Then keep on with once a week.",
        ),
        avoid=("No oils on the scalp.", "Avoid hair spray and hot blow-drying."),
        see=("soon: patches are thick, weeping or bald", "four weeks of shampoo change nothing"),
    ),
    Topic(
        name="scabies",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        ages=(18, 60),
        says=(
            "I itch all over at night, and now my partner does too, {for}.",
            "Tiny bumps between my fingers and on my wrists, the itch keeps me up, {for}.",
            "{who} has been scratching {for} and there are little lines between {his} fingers.",
            "In our shared flat three of us itch, mostly in bed, {for}.",
            "Warm blankets set off a maddening itch at wrists and waist, it began {ago}.",
        ),
        notes=(
            "The face is spared.",
            "A friend who stayed over had it.",
            "Nothing shows but scratches.",
        ),
        tried=("washing everything", "an allergy tablet", "body lotion"),
        asks=(
            ("Is it from being dirty?", "It has nothing to do with cleanliness."),
            ("Who else must be treated?", "Everyone in the household treats on the same day."),
            (
                "Why does it still itch after cream?",
                "The itch lasts up to four weeks after a cure.",
            ),
        ),
        cause=("scabies, mites in the skin", "scabies"),
        do=(
            "Rub permethrin cream in from neck to toes overnight.",
            "Repeat it after one week.",
            "Wash bedding and clothes of three days hot.",
        ),
        avoid=(
            "Avoid close skin contact until the day after treatment.",
            "Do not use the cream more often than told.",
        ),
        see=(
            "soon: skin turns sore, crusted or infected",
            "new bumps come four weeks after treatment",
        ),
    ),
    Topic(
        name="mole_check",
        lasting=Lasting.MONTHS,
        others=Others.ADULT,
        says=(
            "A mole on my back has become darker and wider {for}.",
            "I noticed a brown spot on my calf with a ragged edge, it's new.",
            "{who} has a mole on {his} shoulder that has changed {for}, and {he} won't go.",
            "One of my moles itches and looks different from the rest, {for}.",
            "My hairdresser found an odd dark mark behind my ear that I'd never noticed.",
        ),
        notes=("It's about 7 mm across.", "{i} burnt a lot as a child.", "It hasn't bled."),
        tried=("photographing it", "a phone app", "waiting"),
        asks=(
            ("Is it cancer?", "Most changed moles are harmless, but we want to see it."),
            ("How soon should it be seen?", "We see changing moles within two weeks."),
            ("Are the apps any good?", "Apps are no substitute for a look with the lens."),
        ),
        cause=("a mole that needs a look through the lens", "a changing mole, most often harmless"),
        do=(
            "Book a skin check within two weeks.",
            "Take a photo beside a ruler today.",
            "Check the rest of the skin in good light.",
        ),
        avoid=("Do not scratch or burn it off.", "Keep it out of the sun until then."),
        see=("soon: it bleeds, grows quickly or gets several colours", "other spots look alike"),
    ),
    Topic(
        name="chilblains",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "My toes are red-purple, itchy and swollen since the cold spell, {for}.",
            "When I warm my feet after the stable my toes burn and itch, {for}.",
            "{who} has sore purple spots on {his} fingers every winter, now {for}.",
            "Little itchy swellings on three toes, worse by the fire, {for}.",
            "Coming in from the frost, my fingers swell up and itch like mad, {for} already.",
        ),
        notes=(
            "The skin is not broken.",
            "{i} stand{s} on a cold floor at work.",
            "In summer there is nothing.",
        ),
        tried=("a hot bath", "thicker socks", "rubbing them"),
        asks=(
            ("Is it poor circulation?", "The small vessels overreact, the big ones are fine."),
            ("Can they leave damage?", "They heal in two to three weeks without marks."),
            ("Is there a cream?", "A mild steroid cream can take the itch away."),
        ),
        cause=("chilblains", "chilblains from cold and damp"),
        do=(
            "Keep the whole body warm, not just hands and feet.",
            "Warm up slowly at room temperature.",
            "Wear dry wool socks and roomy shoes.",
        ),
        avoid=("No hot water or heaters on cold skin.", "Do not smoke, it narrows the vessels."),
        see=("soon: the skin breaks or turns black", "they come in warm weather as well"),
    ),
)
