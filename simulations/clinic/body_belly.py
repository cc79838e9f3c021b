"""Body of the fictional records: stomach and bowels."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="heartburn",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "I get a burning behind my breastbone after dinner nearly every night, {for}.",
            "Acid comes up into my throat when I lie down, {for} now.",
            "{who} eats antacids like sweets because of heartburn, {for} already.",
            "Every time I bend over after a meal it burns up to my throat, {for}.",
            "I wake at one with a sour mouth and fire in my chest, it started {ago}.",
        ),
        notes=(
            "Pizza and red wine are the worst.",
            "Swallowing works fine.",
            "{i} {have} gained a few kilos.",
        ),
        tried=("antacid tablets", "milk", "two pillows"),
        asks=(
            ("Can {i} take omeprazole?", "A four-week course of omeprazole is fine."),
            ("Should {i} have a camera test?", "A camera test is needed only with warning signs."),
            ("Is it the heart?", "Burning after meals and lying down points to the stomach."),
        ),
        cause=("acid reflux", "heartburn from stomach acid coming up"),
        do=(
            "Eat supper at least three hours before bed.",
            "Raise the head of the bed by ten centimetres.",
            "Take omeprazole half an hour before breakfast.",
        ),
        avoid=(
            "Avoid late, fatty meals, coffee and alcohol.",
            "Stay off ibuprofen, it irritates the stomach.",
        ),
        see=(
            "soon: swallowing sticks, weight falls or stools turn black",
            "four weeks of tablets do not settle it",
        ),
    ),
    Topic(
        name="constipation",
        lasting=Lasting.WEEKS,
        others=Others.ANY,
        says=(
            "I only go every four days and it's hard as pebbles, {for}.",
            "I've been blocked up {for} and my belly feels like a drum.",
            "{who} hasn't been properly on the toilet for days and strains till {he} is red.",
            "Things have come to a standstill {for}, sorry to be so blunt.",
            "I sit there for half an hour and nothing happens, it began {ago} when we travelled.",
        ),
        notes=("There's no blood.", "{i} hardly drink{s} water.", "The belly is soft but bloated."),
        tried=("prunes", "one sachet from the pharmacy", "apple juice"),
        asks=(
            ("Are laxatives habit-forming?", "Macrogol is not habit-forming, even for months."),
            ("How often is normal?", "Anything from three times a day to three a week is normal."),
            ("Could a tablet cause it?", "Iron, codeine and some others do, so send us the list."),
        ),
        cause=("sluggish bowels from too little fluid and fibre", "simple constipation"),
        do=(
            "Take one sachet of macrogol a day until soft.",
            "Add fruit, oats and an extra litre of water.",
            "Sit after breakfast, feet on a low stool.",
        ),
        avoid=("Do not put off the urge.", "Avoid straining and long sitting."),
        see=(
            "there is blood, vomiting or severe belly pain",
            "two weeks of sachets make no difference",
        ),
    ),
    Topic(
        name="stomach_bug",
        lasting=Lasting.HOURS,
        others=Others.ANY,
        says=(
            "I've been throwing up and running to the loo {for}.",
            "The whole night was vomiting and diarrhoea, {for}, I can't keep food down.",
            "{who} has been throwing up {for} and has watery stools.",
            "Cramps, watery diarrhoea and feeling sick {for}, two people at work have it too.",
            "My stomach has been turning itself inside out {for} and I'm weak as a kitten.",
        ),
        notes=("Small sips stay down.", "{i} passed water an hour ago.", "No blood in it."),
        tried=("cola and pretzels", "dry toast", "black tea"),
        asks=(
            ("Is imodium okay?", "Loperamide is for adults without fever, for one journey only."),
            ("When will it stop?", "The vomiting stops within a day, the rest in three to five."),
            (
                "How can the others keep from catching it?",
                "Wash hands with soap, gel does not kill this virus.",
            ),
        ),
        cause=("a stomach virus", "viral gastroenteritis"),
        do=(
            "Take a sip of rehydration drink every few minutes.",
            "Eat rice, banana or toast once hungry.",
            "Use a separate toilet if there is one.",
        ),
        avoid=(
            "Leave out cola, milk and fatty food.",
            "Stay at home until two days after the last symptom.",
        ),
        see=(
            "there is blood, or nothing stays down for a day",
            "loose stools go on for more than a week",
        ),
    ),
    Topic(
        name="bloating",
        lasting=Lasting.MONTHS,
        others=Others.ADULT,
        ages=(18, 60),
        says=(
            "By evening I look six months pregnant and my belly gurgles, {for}.",
            "I swing between diarrhoea and constipation with cramps that ease once I've been, "
            "{for}.",
            "{who} complains of cramps and wind after nearly every meal, {for}.",
            "My gut has been unpredictable {for}, I plan my trips by toilets.",
            "Trousers that fit at breakfast won't close by supper, with rumbling and pain, {for} "
            "now.",
        ),
        notes=("{my} weight is steady.", "Stress makes it worse.", "There's never any blood."),
        tried=("leaving out bread", "charcoal tablets", "peppermint oil"),
        asks=(
            ("Is it an intolerance?", "A food diary shows that better than any bought test."),
            (
                "Should {i} have a colonoscopy?",
                "Without warning signs a colonoscopy is not needed.",
            ),
            ("Do probiotics help?", "A probiotic is worth four weeks, no longer."),
        ),
        cause=("an irritable bowel", "irritable bowel syndrome"),
        do=(
            "Eat small, regular meals and chew slowly.",
            "Try peppermint oil capsules before meals.",
            "Keep a food and symptom diary for two weeks.",
        ),
        avoid=(
            "Go easy on onions, beans, fizzy drinks and sweeteners.",
            "Do not cut out whole food groups on your own.",
        ),
        see=(
            "soon: there is blood, fever or weight loss",
            "it wakes {them} at night or started after fifty",
        ),
    ),
    Topic(
        name="haemorrhoids",
        lasting=Lasting.WEEKS,
        others=Others.NOBODY,
        says=(
            "There's bright red blood on the paper when I wipe, {for}.",
            "I have an itchy, sore lump at my bottom, it came {ago}.",
            "Going to the toilet hurts and afterwards it itches for hours, {for}.",
            "This is awkward: something soft sticks out back there after I go, {for} now.",
            "A few drops of fresh blood in the bowl again, and sitting at my desk is no fun, "
            "{for}.",
        ),
        notes=("The stool itself is brown.", "I strain quite a lot.", "I sit at work all day."),
        tried=("wet wipes", "a cream from the pharmacy", "a rubber ring"),
        asks=(
            ("Is blood always serious?", "Bright blood on the paper is nearly always harmless."),
            ("Do they have to be cut out?", "Surgery is seldom needed."),
            ("Which cream is best?", "Any soothing cream will do, for one week."),
        ),
        cause=("haemorrhoids", "piles from straining"),
        do=(
            "Soften the stool with psyllium and two litres of water.",
            "Sit in lukewarm water for ten minutes a day.",
            "Clean with water and pat dry.",
        ),
        avoid=(
            "Avoid scented wipes and long sitting on the toilet.",
            "Leave the phone outside the bathroom.",
        ),
        see=(
            "the lump is blue and very painful",
            "blood is dark or mixed in, or bowel habits change",
        ),
    ),
    Topic(
        name="travellers_diarrhoea",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        ages=(18, 70),
        says=(
            "I came back from Egypt {ago} and I've had loose stools ever since.",
            "We're on holiday and I've had the runs {for} after street food.",
            "{who} brought diarrhoea home from a trip to India, six times a day, {for}.",
            "Day three of watery stools on a business trip to Mexico, with cramps.",
            "Something I ate in Morocco is taking its revenge, eight times yesterday, it began "
            "{ago}.",
        ),
        notes=("No blood and no fever.", "Small sips stay down.", "The flight home is on Sunday."),
        tried=("loperamide once", "bottled water", "bananas"),
        asks=(
            (
                "Should {i} take an antibiotic?",
                "Antibiotics are kept for blood, fever or a bad course.",
            ),
            ("Does it need a stool test?", "We test the stool if it lasts over a week."),
            ("Can {i} fly like this?", "Flying is fine, ask for an aisle seat."),
        ),
        cause=("traveller's diarrhoea", "a bacterial upset from the trip"),
        do=(
            "Drink rehydration salts, one glass after each loose stool.",
            "Eat salty soup, rice and bananas.",
            "Use loperamide for the journey only.",
        ),
        avoid=(
            "No ice, salads or tap water while away.",
            "Leave out alcohol and milk until it is over.",
        ),
        see=("there is blood, fever over 38.5 or dizziness", "it lasts longer than a week"),
    ),
    Topic(
        name="lactose",
        lasting=Lasting.MONTHS,
        others=Others.ANY,
        says=(
            "An hour after milk or ice cream I'm bloated and have to run, {for}.",
            "I suspect that dairy doesn't agree with me, cramps and wind every time, {for}.",
            "{who} gets tummy ache after {his} cereal and it's noisy in there.",
            "Latte in the morning, cramps by ten. It's been like that {for}.",
            "Cheesecake ended my birthday early, and it isn't the first time milk has done that, "
            "{for}.",
        ),
        notes=(
            "Hard cheese seems fine.",
            "Without milk there's no problem.",
            "It started after a stomach bug.",
        ),
        tried=("oat milk", "enzyme tablets", "smaller portions"),
        asks=(
            ("Is there a test?", "Two weeks without lactose tell as much as the breath test."),
            (
                "Will {i} lack calcium?",
                "Hard cheese, greens and enriched drinks give enough calcium.",
            ),
            ("Is it an allergy?", "It is a missing enzyme and no allergy."),
        ),
        cause=("lactose intolerance", "trouble digesting milk sugar"),
        do=(
            "Leave out lactose for two weeks, then try it again.",
            "Choose hard cheese, yoghurt and lactose-free milk.",
            "Take an enzyme tablet when eating out.",
        ),
        avoid=(
            "Avoid buying expensive intolerance panels.",
            "Do not drop dairy altogether without a replacement.",
        ),
        see=(
            "soon: weight falls, or there is blood or fever",
            "symptoms stay in spite of two weeks without lactose",
        ),
    ),
    Topic(
        name="gallstones",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        ages=(30, 80),
        says=(
            "After fatty meals I get a gripping pain under my right ribs, {for}.",
            "Three times now I've had an hour of bad pain in the upper belly, right side, after "
            "chips.",
            "{who} doubled up after the roast on Sunday, pain under {his} ribs on the right.",
            "A colicky pain goes through to my shoulder blade, each time after rich food, {for}.",
            "Cream sauce and an hour later I'm pacing the kitchen with pain under my right ribs, "
            "again.",
        ),
        notes=(
            "In between there's nothing at all.",
            "{my} mother had her gallbladder out.",
            "The skin isn't yellow.",
        ),
        tried=("antacids", "a hot-water bottle", "skipping supper"),
        asks=(
            (
                "Does the gallbladder have to come out?",
                "That depends on the ultrasound and how often it hurts.",
            ),
            ("Is it an ulcer?", "Pain after fat on the right points to the gallbladder."),
            ("What can {i} eat?", "Rice, potatoes, fruit and lean meat are safe."),
        ),
        cause=("gallstones", "gallbladder colic"),
        do=(
            "Book an ultrasound on an empty stomach.",
            "Eat small, low-fat meals until then.",
            "Take ibuprofen at the start of an attack.",
        ),
        avoid=("Avoid fried food and cream.", "No crash diets, they make stones."),
        see=(
            "skin or eyes turn yellow, fever starts or pain lasts over five hours",
            "attacks come every week",
        ),
    ),
    Topic(
        name="threadworms",
        lasting=Lasting.DAYS,
        others=Others.CHILD,
        other_ages=(3, 10),
        says=(
            "{who} scratches {his} bottom at night and I saw tiny white threads.",
            "I found little white worms in the toilet after {who} had been. I nearly fainted.",
            "There's a note from nursery about worms, and {who} has been itching down there {for}.",
            "{who} has slept badly {for} because of an itchy bottom.",
            "While changing pyjamas I spotted moving bits of white cotton on {who}, "
            "who has been itching {for}.",
        ),
        notes=(
            "{he} eats and plays as usual.",
            "The rest of us have no itch.",
            "{he} bites {his} nails.",
        ),
        tried=("a bath every night", "garlic, on my mother's advice", "fresh bedding"),
        asks=(
            ("Do we all need the tablet?", "The whole household takes it on the same day."),
            ("Can {he} go to school?", "School and nursery are fine."),
            (
                "Where did they come from?",
                "The eggs pass from hand to mouth, it happens to everyone.",
            ),
        ),
        cause=("threadworms", "threadworms, a nuisance but harmless"),
        do=(
            "Give the tablet today and again in two weeks.",
            "Wash bedding and pyjamas hot on the day.",
            "Shower in the mornings and cut nails short.",
        ),
        avoid=("Do not shake the sheets.", "Skip garlic and other home cures."),
        see=(
            "soon: there is belly pain or weight loss",
            "the itch is still there after the second dose",
        ),
    ),
    Topic(
        name="antibiotic_stomach",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        says=(
            "Since I started amoxicillin my stomach is upset and I've loose stools, {for}.",
            "The antibiotic for my tooth gives me diarrhoea, {for}.",
            "{who} feels sick half an hour after each antibiotic tablet, {for}.",
            "I'm on day four of antibiotics and the toilet has become my office.",
            "My infection is better but my belly is in knots from the capsules, {for}.",
        ),
        notes=(
            "Three more days to go.",
            "There's no rash.",
            "{i} take{s} them on an empty stomach.",
        ),
        tried=("yoghurt", "taking them with tea", "skipping one dose"),
        asks=(
            (
                "Can {i} stop early?",
                "Please ring us before stopping, the course may be short enough.",
            ),
            ("Do probiotics help?", "A probiotic may shorten the diarrhoea a little."),
            ("Is this an allergy?", "Loose stools are a side effect and no allergy."),
        ),
        cause=("a side effect of the antibiotic", "gut upset from the antibiotic"),
        do=(
            "Take each dose in the middle of a meal.",
            "Drink an extra glass after each loose stool.",
            "Finish the course unless we tell {them} otherwise.",
        ),
        avoid=(
            "No loperamide while on antibiotics.",
            "Avoid alcohol until the course is finished.",
        ),
        see=(
            "a rash or swelling appears, or stools are bloody",
            "stools come more than six times a day",
        ),
    ),
)
