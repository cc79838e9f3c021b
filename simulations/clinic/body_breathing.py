"""Body of the fictional records: colds, chest and breathing."""

from __future__ import annotations

from simulations.clinic.topic import Lasting, Others, Topic

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="common_cold",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "I've had a runny nose, sneezing and a heavy head {for}.",
            "It's just a cold I suppose, but I've been bunged up {for} and I'm fed up with it.",
            "{who} has been sniffling and coughing {for} and sleeps badly with it.",
            "Streaming nose, sneezing, scratchy throat, it all began {ago}.",
            "I go through a box of tissues a day and my nose is sore from it, {for}.",
        ),
        notes=(
            "No fever.",
            "The snot has gone from clear to yellow.",
            "Everyone around {me} has it.",
        ),
        tried=("vitamin C", "hot honey and lemon", "a nose spray"),
        asks=(
            (
                "Is yellow snot a sign of bacteria?",
                "Yellow mucus is normal and needs no antibiotic.",
            ),
            ("How long does this go on?", "Most colds last seven to ten days, the cough longer."),
            ("Can {i} do sport?", "Wait with sport until the chest and fever are clear."),
        ),
        cause=("a common cold", "an ordinary cold virus"),
        do=(
            "Rest, and drink when thirsty.",
            "Use salt-water drops for the nose.",
            "Take paracetamol for aches if needed.",
        ),
        avoid=(
            "Do not use nose spray for more than a week.",
            "Antibiotics and cough syrups can stay on the shelf.",
        ),
        see=(
            "breathing is hard or fever lasts over three days",
            "it gets worse again after a week",
        ),
    ),
    Topic(
        name="flu",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        says=(
            "It hit me like a truck: 39 degrees, shivering and every muscle aches, {for}.",
            "I've been flat in bed {for} with fever and a dry cough.",
            "{who} is burning up, aching all over and can barely stand, {for} now.",
            "High temperature, headache and limbs like lead, it came on within an hour {ago}.",
            "I shake with chills under two duvets and even my hair hurts, {for}.",
        ),
        notes=(
            "{i} missed the flu jab this year.",
            "The cough is dry.",
            "{i} {am} drinking but not eating.",
        ),
        tried=("paracetamol", "cool cloths", "chicken soup"),
        asks=(
            ("{do} {i} need flu tablets?", "Flu tablets are for people at risk, within two days."),
            ("When can {i} go back to work?", "Go back a full day after the fever has gone."),
            ("Is fever of 39 dangerous?", "Fever of 39 is how the body fights flu."),
        ),
        cause=("influenza", "real flu rather than a cold"),
        do=(
            "Stay in bed and drink two litres a day.",
            "Take paracetamol every six hours for fever and aches.",
            "Sleep apart from others and air the room.",
        ),
        avoid=(
            "Avoid any effort for a week after the fever.",
            "Do not mix several cold remedies, many contain paracetamol.",
        ),
        see=(
            "breathing is short, the chest hurts or {you} become{s} confused",
            "the fever returns after it had gone",
        ),
    ),
    Topic(
        name="lingering_cough",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        says=(
            "The cold went weeks ago but the dry cough has stayed {for}.",
            "I cough and cough at night, {for}, nothing comes up.",
            "{who} has been barking {for} since that cold and the whole house is awake.",
            "A tickle in my throat sets off coughing fits whenever I laugh or go into cold air, "
            "{for}.",
            "I can't get through a phone call without coughing, and this since a chest cold {ago}.",
        ),
        notes=(
            "No fever and no blood.",
            "{i} {am} otherwise back to normal.",
            "{i} stopped smoking two years ago.",
        ),
        tried=("cough syrup", "thyme tea", "a teaspoon of honey at night"),
        asks=(
            ("{do} {i} need an X-ray?", "We take an X-ray if it lasts over eight weeks."),
            ("Why won't it go?", "The airways stay touchy for up to eight weeks."),
            ("Would an inhaler help?", "An inhaler helps only if there is wheezing."),
        ),
        cause=("an irritable cough after a virus", "a cough that lingers after a cold"),
        do=(
            "Take a spoon of honey before bed.",
            "Sip water when the tickle starts.",
            "Sleep with the head raised.",
        ),
        avoid=("Avoid smoke, dust and cold air.", "Antibiotics do nothing for this cough."),
        see=(
            "there is blood, weight loss or breathlessness",
            "the cough lasts longer than eight weeks",
        ),
    ),
    Topic(
        name="hay_fever",
        lasting=Lasting.WEEKS,
        others=Others.ANY,
        says=(
            "My eyes itch and I sneeze ten times in a row as soon as I go outside, {for}.",
            "Every spring it's the same, streaming nose and itchy roof of the mouth, {for} now.",
            "{who} rubs {his} eyes raw and sneezes all day since the birches are out.",
            "I've been sneezing and dripping {for}, indoors it's better.",
            "The moment someone mows a lawn my nose turns into a tap and my eyes swell, {for}.",
        ),
        notes=("Rainy days are much better.", "No wheezing.", "{my} sister has hay fever too."),
        tried=("tablets that made {me} sleepy", "sunglasses", "a saline spray"),
        asks=(
            (
                "Which tablet doesn't make one tired?",
                "Cetirizine or loratadine in the evening seldom cause tiredness.",
            ),
            ("Are allergy shots worth it?", "Allergy shots are worth a talk in autumn."),
            (
                "Can a steroid spray be used every day?",
                "The nose spray is safe every day in the season.",
            ),
        ),
        cause=("hay fever from pollen", "a pollen allergy"),
        do=(
            "Use the steroid nose spray every morning, not only on bad days.",
            "Rinse hair and face before bed.",
            "Keep windows shut in the early morning.",
        ),
        avoid=("Do not dry washing outdoors.", "Avoid older allergy tablets when driving."),
        see=("there is wheezing or a tight chest", "two weeks of daily spray do not help"),
    ),
    Topic(
        name="asthma_flare",
        lasting=Lasting.DAYS,
        others=Others.ANY,
        says=(
            "I've needed my blue inhaler four times a day {for} and wake up wheezing.",
            "My asthma has been acting up {for} since I caught a cold.",
            "{who} has asthma and coughs at night again, {for}, and puffs after the stairs.",
            "Tight chest and a whistle when I breathe out, {for}, usually I need nothing.",
            "I have to stop halfway up the hill and use my reliever, which I hadn't touched in a "
            "year, {for}.",
        ),
        notes=(
            "{i} can talk in full sentences.",
            "The neighbours got a cat.",
            "{my} peak flow is 80 percent of the usual.",
        ),
        tried=("two extra puffs", "steam", "leaving out the brown inhaler"),
        asks=(
            (
                "Should {i} go up with the preventer?",
                "Go up to two puffs of preventer twice a day for now.",
            ),
            (
                "Is it safe to use the blue one so often?",
                "Needing it daily means the airways are inflamed.",
            ),
            ("{do} {i} need steroids?", "Steroid tablets are needed only if the plan fails."),
        ),
        cause=("a flare of asthma", "asthma stirred up by a cold"),
        do=(
            "Take the preventer every day, with a spacer.",
            "Use two puffs of the blue inhaler when tight.",
            "Write down peak flow morning and evening.",
        ),
        avoid=("Never leave out the preventer.", "Stay clear of smoke and cats."),
        see=(
            "112: talking is hard or the blue inhaler brings no relief",
            "peak flow falls below 60 percent",
        ),
    ),
    Topic(
        name="chest_wall_pain",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        ages=(18, 60),
        says=(
            "I have a sharp spot next to my breastbone that hurts when I press it or twist, {for}.",
            "After a week of coughing my ribs are sore on one side, {for}.",
            "{who} helped someone move house and now has a stabbing pain in {his} ribs when "
            "turning.",
            "It stabs on the left when I take a deep breath or lift my bag, {for}.",
            "Reaching for the seat belt sends a jab through my ribs, it began {ago} after rowing.",
        ),
        notes=(
            "Walking upstairs changes nothing.",
            "{i} can put one finger on the spot.",
            "No breathlessness, no fever.",
        ),
        tried=("a warm bath", "ibuprofen gel", "lying still"),
        asks=(
            (
                "Could it be the heart?",
                "Pain that you can press with a finger is seldom the heart.",
            ),
            ("Is a rib broken?", "A cracked rib would be treated in the same way."),
            ("Can {i} keep going to the gym?", "Leave out lifting for two weeks."),
        ),
        cause=("a strained chest wall", "sore rib joints"),
        do=(
            "Take ibuprofen with food for three to five days.",
            "Use a hot-water bottle for twenty minutes.",
            "Breathe deeply ten times every hour.",
        ),
        avoid=("Avoid lifting and twisting for two weeks.", "Do not strap the chest."),
        see=(
            "112: pain comes with effort, spreads to the arm or brings sweating",
            "there is fever, or it lasts beyond four weeks",
        ),
    ),
    Topic(
        name="covid_test",
        lasting=Lasting.DAYS,
        others=Others.ADULT,
        says=(
            "My covid test turned positive and I've had a cough and sore throat {for}.",
            "Two lines on the test. I feel like a bad cold, nothing worse, {for}.",
            "{who} tested positive for covid {ago} and feels weak and achy.",
            "I can't taste my coffee and the test is positive, {for} now.",
            "Well, the second line showed up at once, and I've been coughing and tired {for}.",
        ),
        notes=(
            "{my} oxygen reads 97.",
            "{i} {have} had all the jabs.",
            "{my} grandmother lives with us.",
        ),
        tried=("paracetamol", "staying in one room", "lots of tea"),
        asks=(
            ("How long should {i} stay away from others?", "Stay away from others for five days."),
            ("{do} {i} need the antiviral?", "The antiviral is for people at high risk."),
            ("When will taste come back?", "Taste returns within weeks for nearly everyone."),
        ),
        cause=("mild covid", "a mild course of covid"),
        do=(
            "Rest, and take paracetamol for fever and aches.",
            "Open windows and wear a mask near others.",
            "Go back to activity step by step.",
        ),
        avoid=(
            "Avoid hard sport for two weeks.",
            "Keep away from people with weak immune systems.",
        ),
        see=(
            "breath gets short, oxygen falls below 94 or the chest hurts",
            "fever lasts longer than five days",
        ),
    ),
    Topic(
        name="quit_smoking",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        ages=(20, 75),
        says=(
            "I want to stop smoking, a pack a day for fifteen years, and I've failed twice.",
            "I quit {ago} and the cravings are driving me mad.",
            "{who} wants to give up cigarettes and gets unbearable by day three.",
            "I've smoked since school and climb the stairs like an old man, so I need to stop now.",
            "My last cigarette was {ago}, and I'd sell my car for one after dinner.",
        ),
        notes=(
            "The first one is always with the morning coffee.",
            "{i} cough{s} every morning.",
            "Everybody at work smokes.",
        ),
        tried=("gum", "vaping", "going cold turkey"),
        asks=(
            (
                "Do patches and gum go together?",
                "Patch and gum together work better than either alone.",
            ),
            ("Are there tablets?", "There are tablets, we can discuss them at a visit."),
            ("Will {i} put on weight?", "Two or three kilos are common and can be lost later."),
        ),
        cause=("nicotine withdrawal, which peaks in the first week", "a strong nicotine habit"),
        do=(
            "Set a date and clear the house of cigarettes.",
            "Wear a patch all day and add gum for cravings.",
            "Join our quit group on Wednesdays.",
        ),
        avoid=(
            "Avoid alcohol in the first two weeks.",
            "Not one puff, it starts the craving again.",
        ),
        see=(
            "{you} cough{s} blood or the mood sinks badly",
            "sleep fails for more than a week",
        ),
    ),
    Topic(
        name="panic_breathing",
        lasting=Lasting.WEEKS,
        others=Others.ADULT,
        ages=(18, 60),
        says=(
            "Out of nowhere I can't get enough air, my fingers tingle and my heart races.",
            "I had to leave the supermarket because I thought I'd suffocate, this keeps happening "
            "{for}.",
            "{who} has sudden attacks of breathlessness with tingling lips, and an hour later all "
            "is well.",
            "I keep yawning and sighing because a breath doesn't feel deep enough, {for}.",
            "On the train my chest went tight, my hands cramped and I was sure I'd faint, again, "
            "{for}.",
        ),
        notes=(
            "It lasts about ten minutes.",
            "{i} can run without any trouble.",
            "The heart tracing last year was fine.",
        ),
        tried=("a paper bag", "opening the window", "walking it off"),
        asks=(
            ("Is it the lungs?", "Lungs that allow running are almost surely fine."),
            ("Will {i} pass out?", "Fainting from this is very rare."),
            (
                "What helps in the moment?",
                "Breathe out slowly for six seconds, through pursed lips.",
            ),
        ),
        cause=("panic attacks with fast breathing", "over-breathing from anxiety"),
        do=(
            "Practise slow breathing twice a day, not only in attacks.",
            "Stay where it happens until the wave has passed.",
            "Write down what came before each attack.",
        ),
        avoid=(
            "Leave the paper bag, it does not help.",
            "Do not avoid the places, that feeds the fear.",
        ),
        see=(
            "it happens on effort or with chest pain",
            "it keeps {them} from work or leaving the house",
        ),
    ),
)
