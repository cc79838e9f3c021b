"""Body of the fictional records: head, eyes and sleep."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="tension_headache",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "I get a dull, tight headache like a band round my forehead most afternoons {for}.",
            "My head has been aching on both sides {for}, mostly after long days at the screen.",
            "{who} comes home from work with a pressing headache almost every day {for}.",
            "It feels as if I'm wearing a hat that's two sizes too small, nearly every evening "
            "{for}.",
            "There's a steady pressure across my temples that builds up by tea time, {for} now.",
        ),
        notes=(
            "The neck and shoulders are tight as well.",
            "Light doesn't bother {me} and there's no sickness.",
            "It eases off at the weekend.",
        ),
        tried=("paracetamol nearly every day", "more coffee", "a cold flannel and an early night"),
        asks=(
            ("{do} {i} need a scan?", "A scan is not needed for this pattern."),
            ("Could it be {my} eyes?", "An eye test is sensible if the last one is two years ago."),
            ("Is it okay to keep taking painkillers?", "Keep painkillers to two days a week."),
        ),
        cause=("a tension headache from tight neck muscles", "a tension headache"),
        do=(
            "Take a short break from the screen every hour.",
            "Put a warm towel on the neck for fifteen minutes in the evening.",
            "Drink enough through the day and keep regular bedtimes.",
        ),
        avoid=(
            "Avoid painkillers on more than ten days a month.",
            "Do not skip meals.",
        ),
        see=(
            "112: a headache is sudden and severe, or comes with a stiff neck",
            "the headaches wake {them} at night or change in character",
        ),
    ),
    Topic(
        name="migraine",
        lasting=Lasting.MONTHS,
        others=Others.ADULT,
        ages=(18, 60),
        says=(
            "About twice a month I get a throbbing headache on one side and have to lie in the "
            "dark.",
            "I see zigzag lines for twenty minutes and then half my head pounds. This has come and "
            "gone {for}.",
            "{who} gets these attacks where one side of the head hammers and {he} throws up.",
            "One-sided headaches with nausea, lasting most of a day, on and off {for}.",
            "When my bad head days come I can't stand light or noise and I feel sick till evening, "
            "on and off {for}.",
        ),
        notes=(
            "Red wine and short nights seem to bring it on.",
            "{my} mother had the same.",
            "Between attacks {i} feel{s} perfectly well.",
        ),
        tried=("ibuprofen once it is really bad", "lying down in a dark room", "a strong coffee"),
        asks=(
            ("Is there something stronger?", "We can prescribe a triptan at a short visit."),
            ("Can this be prevented?", "With four or more days a month, prevention is worth it."),
            ("Is it dangerous?", "It is unpleasant but not dangerous."),
        ),
        cause=("migraine", "migraine, which often runs in families"),
        do=(
            "Take ibuprofen with food at the very first sign.",
            "Keep a diary of attacks, sleep and meals for a month.",
            "Rest in a dark, quiet room and sip water.",
        ),
        avoid=(
            "Avoid waiting until the pain is at its worst.",
            "Avoid painkillers on more than ten days a month.",
        ),
        see=(
            "112: an attack brings weakness or trouble speaking",
            "attacks come more than four times a month",
        ),
    ),
    Topic(
        name="sinusitis",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        says=(
            "My nose is blocked and my cheeks hurt when I bend down, {for} now.",
            "I had a cold, it got better, and now my whole face aches and the snot is green.",
            "{who} has had pain above the eyes and a completely stuffed nose {for}.",
            "Pressure behind my cheekbones {for} and even my upper teeth ache.",
            "Whenever I tie my shoes my forehead throbs, and my nose has been bunged up {for}.",
        ),
        notes=(
            "{i} can't smell a thing.",
            "There's no fever so far.",
            "It drips down the back of the throat at night.",
        ),
        tried=("nose spray from the pharmacy", "steam over a bowl", "paracetamol"),
        asks=(
            ("{do} {i} need antibiotics?", "Antibiotics rarely help in the first ten days."),
            ("How long will this last?", "It usually clears within two to three weeks."),
            ("Can {i} fly on Friday?", "Flying may hurt the ears, so use a nose spray before."),
        ),
        cause=("sinusitis after a cold", "inflamed sinuses, almost always from a virus"),
        do=(
            "Rinse the nose with salt water twice a day.",
            "Use a decongestant spray for five days at most.",
            "Take paracetamol for the pain and sleep with the head raised.",
        ),
        avoid=(
            "Do not use decongestant sprays for more than a week.",
            "Avoid smoke and dry air.",
        ),
        see=(
            "an eye swells, the fever passes 38.5 or the pain gets worse after a week",
            "it is no better after ten days",
        ),
    ),
    Topic(
        name="conjunctivitis",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "My left eye is red and was glued shut with yellow stuff this morning.",
            "Both my eyes are pink, itchy and weepy {for}.",
            "{who} woke up with a sticky red eye and now the other one has started.",
            "My eye feels gritty and keeps making gunk, it began {ago}.",
            "I have to soak my lashes apart every morning because one eye is red and oozing, "
            "{for}.",
        ),
        notes=(
            "Sight is normal once it's wiped clean.",
            "Someone else in the house had it last week.",
            "{i} {do} not wear contact lenses.",
        ),
        tried=("wiping it with cold tea", "old eye drops from the cupboard", "cool water"),
        asks=(
            ("Is it catching?", "It spreads by hands, so everyone needs a towel of their own."),
            ("{do} {i} need drops?", "Drops are seldom needed, most eyes clear in a week."),
            ("Must {i} stay at home?", "Staying home is not required."),
        ),
        cause=("conjunctivitis", "a simple infection of the eye's surface"),
        do=(
            "Wipe the lids with cooled boiled water, inner corner outwards.",
            "Use a fresh cotton pad for each eye.",
            "Wash hands often and change the pillowcase daily.",
        ),
        avoid=(
            "Leave contact lenses and make-up out until it clears.",
            "Do not share towels or use old drops.",
        ),
        see=(
            "the eye hurts, light is painful or sight is blurred",
            "it is no better after seven days",
        ),
    ),
    Topic(
        name="stye",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "I have a sore red lump on the edge of my upper eyelid {for}.",
            "A pimple has come up right where my lashes grow and it hurts when I blink.",
            "{who} has a swollen lower lid with a little yellow head on it, it came {ago}.",
            "My eyelid looks like a small cherry and is tender to touch, {for} already.",
            "Something like a boil is sitting on my lash line, it began {ago} and it throbs.",
        ),
        notes=(
            "The eye itself looks white.",
            "{i} had one last year too.",
            "It's a bit bigger today.",
        ),
        tried=("a cold spoon", "make-up to cover it", "leaving it alone"),
        asks=(
            ("Should it be lanced?", "Lancing is almost never needed."),
            ("Will it go by itself?", "Nearly all go by themselves in one to two weeks."),
            ("Is there a cream for it?", "Warmth works better than any cream here."),
        ),
        cause=("a stye, a blocked gland at the lash", "a stye"),
        do=(
            "Hold a warm, wet cloth on it ten minutes, four times a day.",
            "Massage the lid gently towards the lashes afterwards.",
            "Clean the lid margin with diluted baby shampoo.",
        ),
        avoid=(
            "Do not squeeze it.",
            "Leave out eye make-up and contact lenses until it has gone.",
        ),
        see=(
            "the whole lid swells, sight changes or there is fever",
            "the lump is still there after four weeks",
        ),
    ),
    Topic(
        name="dry_eyes",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "My eyes burn and feel sandy by the end of the day, {for} now.",
            "They water in the wind, sting at the computer and feel dry all the same, {for}.",
            "{who} keeps rubbing {his} eyes and says they feel like sandpaper.",
            "Burning, tired eyes {for}, worst in the office with the air conditioning on.",
            "Reading at night has become a chore since my eyes smart and go blurry until I blink.",
        ),
        notes=(
            "There's no gunk and no real redness.",
            "Blinking a few times clears it.",
            "{i} spend{s} nine hours a day in front of a monitor.",
        ),
        tried=("drops that take the red out", "new glasses", "a humidifier"),
        asks=(
            ("Which drops are best?", "Choose artificial tears without preservative."),
            ("Can screens do damage?", "Screens dry the eyes but do no lasting harm."),
            (
                "Why do they water if they're dry?",
                "Watering is how a dry eye tries to help itself.",
            ),
        ),
        cause=("dry eyes from too little blinking", "dry eyes"),
        do=(
            "Use preservative-free tear drops four times a day.",
            "Look into the distance for twenty seconds every twenty minutes.",
            "Warm the closed lids for ten minutes each evening.",
        ),
        avoid=(
            "Avoid drops that whiten the eye.",
            "Keep fans and vents from blowing at the face.",
        ),
        see=(
            "there is pain, marked redness or a change in sight",
            "a month of regular drops brings no relief",
        ),
    ),
    Topic(
        name="vertigo",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        ages=(35, 84),
        says=(
            "The room spins for half a minute whenever I turn over in bed, {for}.",
            "I looked up at a shelf and everything whirled. It has happened every day since.",
            "{who} gets so giddy on lying down that {he} has to hold on to the mattress.",
            "Short spells of spinning {for}, always when I move my head quickly.",
            "Getting out of bed is like stepping off a carousel, it began {ago}, then it settles "
            "in "
            "a minute.",
        ),
        notes=(
            "Sitting still {i} feel{s} fine.",
            "It makes {me} queasy but there's been no vomiting.",
            "Hearing is the same as ever.",
        ),
        tried=("sleeping in the armchair", "ginger tea", "travel sickness tablets"),
        asks=(
            ("Is this a stroke?", "Short spells on turning the head do not point to a stroke."),
            ("Can {i} drive?", "Please leave the car until the spells have stopped."),
            ("Are there exercises?", "Yes, the Epley manoeuvre, which we can show at a visit."),
        ),
        cause=("positional vertigo from loose crystals in the inner ear", "positional vertigo"),
        do=(
            "Book a visit for the Epley manoeuvre, it takes ten minutes.",
            "Rise slowly and sit on the edge of the bed first.",
            "Sleep with two pillows for some nights.",
        ),
        avoid=(
            "Avoid ladders and driving for now.",
            "Avoid tablets for dizziness for more than three days.",
        ),
        see=(
            "112: speech, face or limbs are affected",
            "falls happen or hearing is lost on one side",
        ),
    ),
    Topic(
        name="jaw_grinding",
        lasting=Lasting.MONTHS,
        others=Others.ADULT,
        says=(
            "I wake up with a sore jaw and aching temples most mornings, {for} now.",
            "My dentist says I grind my teeth, and my jaw has been clicking when I chew {for}.",
            "{who} grinds {his} teeth so loudly at night that I lie awake.",
            "My jaw feels tired before breakfast, as though I'd chewed leather all night, {for}.",
            "Yawning makes a crack by my ear and the muscles of my cheek are tender, it began "
            "{ago}.",
        ),
        notes=(
            "{my} back teeth look worn.",
            "It is worse in weeks when work is stressful.",
            "The mouth opens fully.",
        ),
        tried=("a boil-and-bite guard", "softer food", "ibuprofen in the mornings"),
        asks=(
            ("{do} {i} need a splint?", "A fitted splint from the dentist protects the teeth."),
            ("Can stress cause this?", "Stress is the most common trigger."),
            ("Will the clicking harm the joint?", "Clicking without pain or locking is harmless."),
        ),
        cause=("clenching and grinding at night", "an overworked jaw from grinding"),
        do=(
            "Eat soft food for two weeks and cut it small.",
            "Hold a warm cloth on both cheeks before bed.",
            "Let the jaw hang loose with the tongue behind the upper teeth.",
        ),
        avoid=(
            "Avoid chewing gum and wide yawns.",
            "Leave out coffee and alcohol late in the day.",
        ),
        see=(
            "the mouth locks or no longer opens fully",
            "the pain goes on after four weeks of soft food",
        ),
    ),
    Topic(
        name="insomnia",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "I lie awake till two or three every night {for} and then drag myself through the day.",
            "I fall asleep fine but at four my eyes pop open and that's it, {for} now.",
            "{who} has hardly slept {for} and wanders about the house at night.",
            "Sleep and I have parted ways. I get perhaps four hours, {for}.",
            "Night after night I watch the alarm clock tick round to three, it started {ago}.",
        ),
        notes=(
            "{i} nap{s} on the sofa after supper.",
            "There's a lot on {my} mind at work.",
            "Three coffees a day, the last at five.",
        ),
        tried=("melatonin from the internet", "herbal tea", "a glass of wine before bed"),
        asks=(
            (
                "Can {i} have sleeping pills?",
                "Pills lose their effect in weeks, so we start without.",
            ),
            ("Is it harmful to sleep so little?", "A bad patch is tiring but not harmful."),
            ("Does melatonin work?", "Melatonin helps mostly with jet lag."),
        ),
        cause=("insomnia kept going by long hours in bed", "a sleep rhythm that has slipped"),
        do=(
            "Get up at the same time every day, weekends too.",
            "Leave the bed after twenty minutes awake and read in dim light.",
            "Keep the phone out of the bedroom.",
        ),
        avoid=("No coffee after noon and no naps.", "Avoid alcohol as a sleeping aid."),
        see=(
            "soon: low mood, loud snoring or restless legs come with it",
            "four weeks of this bring no change",
        ),
    ),
    Topic(
        name="snoring",
        lasting=Lasting.MONTHS,
        others=Others.ADULT,
        ages=(30, 75),
        says=(
            "My wife has moved to the spare room because of my snoring, {for} now.",
            "I snore like a chainsaw and wake up with a dry mouth and no energy.",
            "{who} snores, then goes silent, then gasps. It frightens me.",
            "I'm told I stop breathing in my sleep, and I nod off in meetings.",
            "The whole campsite complained about the noise I make at night, and I am never "
            "rested, {for}.",
        ),
        notes=(
            "{i} {have} put on some weight this year.",
            "It's worse after beer.",
            "Mornings start with a headache.",
        ),
        tried=("nose strips", "a chin strap", "sleeping on {my} side"),
        asks=(
            ("{do} {i} need a sleep study?", "We can lend a small recorder for one night at home."),
            ("Is it dangerous?", "Pauses in breathing strain the heart, so we want to look."),
            ("Would losing weight help?", "Losing even five kilos often makes it much quieter."),
        ),
        cause=("sleep apnoea, pauses in breathing at night", "snoring with possible sleep apnoea"),
        do=(
            "Sleep on the side, with a cushion behind the back.",
            "Book the home sleep recording at reception.",
            "Treat a blocked nose with salt-water spray.",
        ),
        avoid=("Avoid alcohol and sleeping tablets in the evening.", "Do not drive when sleepy."),
        see=(
            "{you} fall{s} asleep at the wheel or at work",
            "there is chest pain or breathlessness at night",
        ),
    ),
)
