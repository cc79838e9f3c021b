"""Body of the fictional records: ears, nose, mouth and throat."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="earwax",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        says=(
            "My right ear has felt plugged {for} and voices sound as if I'm under water.",
            "After the shower my ear went deaf and it hasn't opened up again, {for}.",
            "{who} turns the telly up and up and says one ear is blocked.",
            "I think I pushed wax in with a cotton bud, everything on that side is muffled.",
            "It's as though there's cotton wool stuffed in one ear {for}, no pain, just dull "
            "hearing.",
        ),
        notes=(
            "It doesn't hurt.",
            "{i} had {my} ears rinsed once, years ago.",
            "There is a faint ringing on that side.",
        ),
        tried=("cotton buds", "jumping on one leg", "a candle from the health shop"),
        asks=(
            ("Can you syringe it?", "We rinse ears on Tuesdays, after softening the wax."),
            ("Which oil should {i} use?", "Plain olive oil from the pharmacy is fine."),
            ("Could the hearing be damaged?", "Hearing returns once the wax is out."),
        ),
        cause=("a plug of earwax", "wax that has swollen with water"),
        do=(
            "Put in three drops of olive oil twice a day for a week.",
            "Lie on the other side for ten minutes after the drops.",
            "Book an ear rinse if it is still blocked after a week.",
        ),
        avoid=(
            "Put no cotton buds in the ear.",
            "Leave ear candles alone, they burn and do not help.",
        ),
        see=(
            "hearing is lost suddenly or the room spins",
            "there is pain, discharge or bleeding",
        ),
    ),
    Topic(
        name="swimmers_ear",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "My ear canal itches and hurts when I tug at the ear, ever since our week at the pool.",
            "I swim a lot and my ear has been sore and a bit wet inside {for}.",
            "{who} came back from swim camp and cries out if anyone touches {his} ear.",
            "Earache {for}, worse when I chew or pull at the lobe, and a little discharge.",
            "Since the lake on holiday one ear is swollen shut inside and stings at the lightest "
            "pull.",
        ),
        notes=(
            "No fever.",
            "There's some smelly fluid on the pillow.",
            "Hearing is slightly dull on that side.",
        ),
        tried=("warm oil", "drying it with a cotton bud", "paracetamol"),
        asks=(
            ("Can {i} keep swimming?", "Stay out of the water for ten days."),
            (
                "Are drops enough or {do} {i} need tablets?",
                "Drops are enough, tablets are not needed.",
            ),
            ("Is it the middle ear?", "Pain on pulling points to the canal, not the middle ear."),
        ),
        cause=("swimmer's ear, an inflamed ear canal", "an infected ear canal from water"),
        do=(
            "Pick up the ear drops we have sent to the pharmacy.",
            "Keep the ear dry with vaselined cotton wool when showering.",
            "Take paracetamol regularly for the first two days.",
        ),
        avoid=(
            "Put nothing but the drops into the ear.",
            "Avoid earphones until it has healed.",
        ),
        see=(
            "the outer ear turns red and stands out, or a fever starts",
            "the pain is no better after three days of drops",
        ),
    ),
    Topic(
        name="tinnitus",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        ages=(25, 80),
        says=(
            "There's a high whistling in both my ears {for}, worst when I go to bed.",
            "I went to a loud concert and my ears have been ringing ever since.",
            "{who} hears a hissing that nobody else hears and it keeps {him} awake.",
            "A tone like an old television sits in my head day and night, {for}.",
            "At night, when the house is silent, I hear a constant peep, {for} now and it's "
            "driving me "
            "up the wall.",
        ),
        notes=(
            "Hearing seems fine otherwise.",
            "Work has been stressful.",
            "By day {i} hardly notice{s} it.",
        ),
        tried=("ginkgo tablets", "earplugs at night", "the radio turned low"),
        asks=(
            ("Will it ever stop?", "For most people it fades within a few months."),
            ("Is there a tablet for it?", "No tablet works, but sound and sleep training do."),
            ("Is it from the blood pressure?", "Blood pressure is a rare cause, we can check it."),
        ),
        cause=("tinnitus, often after noise or stress", "tinnitus"),
        do=(
            "Play soft background sound at bedtime.",
            "Wear ear protection wherever it is loud.",
            "Book a hearing test so that we have a baseline.",
        ),
        avoid=(
            "Avoid complete silence.",
            "Do not spend money on supplements for it.",
        ),
        see=(
            "soon: it beats with the pulse, is on one side only or hearing drops",
            "it keeps {them} from sleeping for more than two weeks",
        ),
    ),
    Topic(
        name="nosebleeds",
        lasting=Lasting.WEEKS,
        others=Others.ANY,
        says=(
            "My nose has bled four times this week, always from the left side.",
            "Every morning when I blow my nose there's blood, {for} now.",
            "{who} keeps getting nosebleeds at night and the pillow looks like a crime scene.",
            "I've had short nosebleeds on and off {for}, they stop after ten minutes or so.",
            "Red drops on my shirt again today, my nose starts bleeding out of nowhere, {for} now.",
        ),
        notes=(
            "The heating is on all day.",
            "{i} {do} pick at it, to be honest.",
            "There's no bruising elsewhere.",
        ),
        tried=("tilting the head back", "tissue up the nostril", "a cold cloth on the neck"),
        asks=(
            ("Should the vein be burnt?", "Cautery helps only if ointment has failed."),
            ("Is it the blood pressure?", "Dry air is a far more common cause than pressure."),
            ("How do {i} stop it?", "Lean forward and be patient, by the clock."),
        ),
        cause=("a dry, cracked lining at the front of the nose", "nosebleeds from dry air"),
        do=(
            "Pinch the soft part of the nose for ten full minutes.",
            "Rub a little nasal ointment inside twice a day for two weeks.",
            "Put a bowl of water on the radiator.",
        ),
        avoid=(
            "Do not tilt the head back or pack it with tissue.",
            "Avoid blowing or picking the nose after a bleed.",
        ),
        see=(
            "a bleed lasts over twenty minutes or {you} take{s} blood thinners",
            "bleeds go on in spite of two weeks of ointment",
        ),
    ),
    Topic(
        name="sore_throat",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "My throat has been raw {for} and swallowing feels like glass.",
            "I have a sore throat, a bit of a cough and I'm hoarse, it started {ago}.",
            "{who} won't eat because {his} throat hurts so much, {for} now.",
            "Swallowing hurts {for} and my tonsils look red in the mirror.",
            "Even water stings on its way down and the glands in my neck are up, {for}.",
        ),
        notes=(
            "The temperature was 37.8 this morning.",
            "There are no white spots.",
            "The nose is running as well.",
        ),
        tried=("lozenges", "salt water gargles", "hot lemon"),
        asks=(
            (
                "{do} {i} need antibiotics?",
                "Nearly all sore throats heal in a week without antibiotics.",
            ),
            ("Should {i} have a swab?", "A swab would not change what we do at this stage."),
            ("Is it contagious?", "It is catching for the first few days."),
        ),
        cause=("a viral sore throat", "a throat infection with a virus"),
        do=(
            "Take paracetamol regularly for two days.",
            "Drink cool fluids and suck ice lollies.",
            "Gargle with salt water if that helps.",
        ),
        avoid=("Avoid smoke and very hot drinks.", "Do not use leftover antibiotics."),
        see=(
            "swallowing water or opening the mouth becomes hard",
            "it is worse after three days or not gone in a week",
        ),
    ),
    Topic(
        name="hoarseness",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "I lost my voice after a cold and it has sounded like a rusty door {for}.",
            "I teach all day and my voice gives out by noon, {for} now.",
            "{who} has been croaky {for} and keeps clearing {his} throat.",
            "My voice cracks on the phone and high notes are gone, I sing in a choir. It began "
            "{ago}.",
            "Since cheering at the match I can only whisper, and that was {ago}.",
        ),
        notes=("Swallowing is fine.", "{i} {have} never smoked.", "It's worst in the mornings."),
        tried=("whispering", "honey", "peppermint sweets"),
        asks=(
            ("Is it okay to whisper?", "Whispering strains the cords more than quiet speech."),
            (
                "Should someone look at {my} vocal cords?",
                "After three weeks of hoarseness we always have a look.",
            ),
            ("Could it be reflux?", "Reflux can do this, mostly in the mornings."),
        ),
        cause=("strained and swollen vocal cords", "laryngitis"),
        do=(
            "Rest the voice, speak little and softly.",
            "Inhale steam twice a day and drink plenty.",
            "Raise the head of the bed at night.",
        ),
        avoid=(
            "Avoid whispering, shouting and throat clearing.",
            "Stay away from smoke and menthol.",
        ),
        see=(
            "breathing is noisy or there is a lump in the neck",
            "the voice is not back within three weeks",
        ),
    ),
    Topic(
        name="mouth_ulcer",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "I have two white sores inside my lip and every bite of tomato is torture.",
            "These craters in my mouth come back every month, this crop has been there {for}.",
            "{who} has a painful spot on {his} tongue and refuses anything but yoghurt.",
            "A sore the size of a lentil sits on my gum {for} and stings when I brush.",
            "Orange juice made me jump this morning, there's a white hole inside my cheek, {for}.",
        ),
        notes=(
            "{i} bit {my} cheek there last week.",
            "There's no fever and no rash.",
            "They run in the family.",
        ),
        tried=("salt", "a numbing gel", "mouthwash that burns"),
        asks=(
            ("{am} {i} missing a vitamin?", "We can check iron and B12 if they keep coming."),
            ("Is this herpes?", "Ulcers inside the mouth are rarely herpes."),
            ("How long until it heals?", "Expect it to heal in seven to ten days."),
        ),
        cause=("a common mouth ulcer", "an aphthous ulcer, harmless but sore"),
        do=(
            "Rinse with salt water after meals.",
            "Dab on a protective paste before eating.",
            "Use a soft brush and a mild toothpaste without foam.",
        ),
        avoid=("Avoid citrus, crisps and spicy food.", "Leave out mouthwash with alcohol."),
        see=(
            "there are fever, a rash or sores elsewhere",
            "an ulcer has not healed after three weeks",
        ),
    ),
    Topic(
        name="cold_sore",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        ages=(18, 75),
        says=(
            "My lip tingled yesterday and now there's a cluster of blisters.",
            "Every time I'm in the sun or stressed I get blisters at the corner of my mouth.",
            "{who} has a crusty blister on {his} lip and we have a new baby in the house.",
            "I've had a cold sore {for} and there's a wedding on Saturday. Of course.",
            "Burning and little bubbles on my upper lip since I came back from skiing, {for}.",
        ),
        notes=("It's the third one this year.", "It has started to crust.", "The eyes are fine."),
        tried=("toothpaste on it", "aciclovir cream", "ice"),
        asks=(
            (
                "Is there a tablet that stops it?",
                "Tablets help if taken on the first day, we can prescribe them.",
            ),
            ("When is it no longer catching?", "Once the crust is dry it is no longer catching."),
            ("Can it spread to the eyes?", "It can, by fingers, so wash hands after touching it."),
        ),
        cause=("a cold sore, the herpes virus waking up", "a cold sore"),
        do=(
            "Dab on aciclovir cream five times a day.",
            "Start the cream at the first tingle next time.",
            "Wear a lip balm with sun protection.",
        ),
        avoid=(
            "No kissing and no shared cups until it is dry.",
            "Keep away from small babies until it has crusted.",
        ),
        see=("the eye turns red or sore", "it spreads or has not healed in ten days"),
    ),
    Topic(
        name="bleeding_gums",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "My gums bleed every time I brush, {for} now.",
            "There's pink in the sink each morning and my gums look puffy.",
            "{who} says {his} gums are sore and {he} leaves blood on apples.",
            "I started flossing {ago} and it bleeds all over, so I stopped again.",
            "My toothbrush turns red at night and my breath isn't what it was, {for}.",
        ),
        notes=(
            "{i} {have} not seen a dentist in three years.",
            "No teeth are loose.",
            "{i} smoke{s} a little.",
        ),
        tried=("a softer brush", "not flossing", "an antiseptic rinse"),
        asks=(
            ("Should {i} stop flossing?", "Keep flossing, the bleeding stops within two weeks."),
            ("Is it a lack of vitamins?", "Plaque is the cause far more often than vitamins."),
            (
                "Is it a matter for you or the dentist?",
                "The dentist is the right address for this.",
            ),
        ),
        cause=("inflamed gums from plaque", "gingivitis"),
        do=(
            "Brush two minutes, twice a day, along the gum line.",
            "Clean between the teeth every evening.",
            "Book the dentist for a check and scaling.",
        ),
        avoid=(
            "Do not stop brushing where it bleeds.",
            "Avoid tobacco, it hides and worsens gum disease.",
        ),
        see=(
            "soon: bruises appear or bleeding does not stop",
            "a tooth is loose or the gum swells with fever",
        ),
    ),
)
