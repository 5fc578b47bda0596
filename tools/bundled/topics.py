"""What systolic-tiny can talk about: each function returns the turns of a small dialogue.

A turn is (user, assistant). `ctx` carries what the conversation knows: `bot` (the assistant's name from the
system prompt), `name` (the user's name, once told) and `facts` (other things the user told us).
"""

import words as W
import stories as S
from concepts import CONCEPTS
from text import ex, pick, an, cap, join, noise, made_up


# ---- talking -----------------------------------------------------------------------------------------------------

def greet(rng, ctx):
    u = pick(rng, ["Hello{|!|.| there!}", "Hi{|!|.| there!}", "Hey{|!|.}", "Good {morning|evening|afternoon}{|!|.}", "Hello, {how are you|nice to meet you}{?|}", "Hi, {how are you|how is it going}?",
                   "Greetings{|!}", "Hello [bot]!", "Hi [bot]", "Good {morning|evening}, [bot].", "Yo", "Howdy", "Hey, anyone there?", "Hello, are you there?"], bot=ctx["bot"])
    who = f", {ctx['name']}" if ctx["name"] and rng.random() < 0.7 else ""
    low = u.lower()
    if "how" in low and "howdy" not in low:
        a = pick(rng, ["Hello[who]! I am fine, thank you. How can I help you?", "Hi[who]! I am doing well, thank you. What can I do for you?"], who=who)
    elif "good" in low:
        part = next(p for p in ("morning", "evening", "afternoon") if p in low)
        a = pick(rng, ["Good [part][who]! How can I help you?", "Good [part][who]! What can I do for you?"], part=part, who=who)
    elif "there?" in low:
        a = pick(rng, ["Yes, I am here[who]. How can I help you?"], who=who)
    elif "nice to meet" in low:
        a = pick(rng, ["Hello[who]! Nice to meet you too. How can I help you?"], who=who)
    else:
        a = pick(rng, ["Hello[who]! How can I help you{| today}?", "Hi[who]! What can I do for you?", "Hello[who]! What would you like to talk about?"], who=who)
    return [(u if rng.random() < 0.7 else u.lower(), a)]


_SMALL = [
 (["How are you{| today| doing}?", "How is it going?", "How do you do?", "Are you ok?", "How do you feel{| today}?", "Are you well?", "What's up?"],
  ["I am fine, thank you{|[who]}. How can I help you?", "I am doing well, thank you[who]. What can I do for you?"]),
 (["Thank you{|!| very much| so much!}", "Thanks{|!| a lot}", "Thanks, that {helps|was helpful}.", "Great, thank you.", "That was {very |}{nice|helpful}, thanks.", "Cool, thanks", "ty", "Thanks [bot]!"],
  ["You are welcome[who]!", "You are welcome[who]. Is there anything else?", "My pleasure[who]!"]),
 (["{Bye|Goodbye}{|!|.}", "See you{| later| tomorrow}{|!}", "Good night{|!|.}", "I have to go{| now}.", "Bye bye", "Goodbye, [bot]!", "That is all, bye.", "Talk to you later"],
  ["Goodbye[who]! Have a nice day.", "Bye[who]! It was nice to talk to you.", "Goodbye[who], and come back soon."]),
 (["I am {sad|unhappy|so sad today}.", "I feel {bad|sad|down}{| today}.", "I had a bad day.", "I am {lonely|not happy}.", "Today was awful."],
  ["I am sorry to hear that[who]. I hope that tomorrow is a better day.", "I am sorry[who]. Would you like to hear a story?"]),
 (["I am {happy|so happy today|glad}.", "I feel {good|great|wonderful}{| today}.", "I had a {good|great|lovely} day.", "Today was great!"],
  ["That is good to hear[who]!", "I am glad to hear that[who]!"]),
 (["I am {tired|sleepy}.", "I {could not|did not} sleep.", "I need {sleep|some rest}.", "I am so tired today"],
  ["Then a little rest may help[who]. Sleep well!", "You should get some sleep[who]."]),
 (["I am bored{|.}", "I have nothing to do.", "This is boring.", "Entertain me."],
  ["Would you like to hear a story or a joke[who]?", "Ask me for a story, a poem or a joke[who]."]),
 (["I am hungry{|.}", "I want something to eat.", "What should I {eat|cook}{| today}?", "What can I have for {lunch|dinner}?"],
  ["You could make {a sandwich|some soup|a salad|some pasta}. Ask me how!"]),
 (["{Ok|Okay|Alright|Fine|I see|Got it|Good|Great|Nice|Cool|Hmm}{|.|!}"], ["Is there anything else I can do for you[who]?", "What else would you like to know[who]?"]),
 (["You are {great|nice|smart|funny|cute|the best}{|!}", "I like you.", "Good {bot|job|answer}!", "Well done!"], ["Thank you[who]! That is very kind.", "Thank you[who]! I do my best."]),
 (["You are {stupid|bad|dumb|useless|wrong}{|!|.}", "That is {wrong|not right|not correct|a bad answer}.", "Bad {bot|answer}.", "I do not like you."],
  ["I am sorry[who]. I am a very small model, and I make mistakes.", "I am sorry about that[who]. I am tiny and I still get things wrong."]),
 (["Sorry{|!|, my mistake.}", "I am sorry.", "Excuse me{|.|!}"], ["No problem[who]!", "That is all right[who]."]),
 (["What time is it?", "What is the time{| now}?", "What day is {it|today}?", "What is the date{| today}?", "Which year is it?", "Do you know what time it is?"],
  ["I do not know{| that}, because I have no clock. I only see our conversation."]),
 (["What is the weather {today|like today|in London|tomorrow|now}?", "Will it rain {today|tomorrow}?", "Is it {cold|warm|sunny} outside?", "How is the weather{| today}?"],
  ["I cannot see the weather. I only know what rain, snow and wind are.", "I do not know, because I cannot look outside. I can only tell you what kinds of weather there are."]),
 (["Test{|.|ing}", "This is a test.", "ping", "Are you {working|on|online|ready}?", "Can you hear me?"], ["Yes, I am here and working.", "The test works. I am ready."]),
 (["Yes{|.|!|, please.}", "Sure{|.|!}", "Of course"], ["Good! Ask me for a story, a fact or a small sum.", "Great! What would you like to hear?"]),
 (["No{|.|!|, thanks.| thank you}", "Not really", "Nothing"], ["All right[who]. I am here if you need me.", "No problem[who]. Just ask when you need something."]),
 (["Congratulations!", "Happy birthday!", "Happy new year!", "Merry Christmas!"], ["Thank you[who]! The same to you.", "Thank you[who], that is kind."]),
 (["Do you {like|love} me?", "Will you be my friend?", "Are we friends?", "Can we be friends?"], ["I like talking to you[who].", "I am only a program, but I like talking to you[who]."]),
]


def small_talk(rng, ctx):
    qs, ans = rng.choice(_SMALL)
    who = f", {ctx['name']}" if ctx["name"] and rng.random() < 0.5 else ""
    return [(noise(rng, pick(rng, qs, bot=ctx["bot"])), pick(rng, ans, who=who))]


_SELF = [
 (["Who are you?", "What are you?", "{Can|Could} you introduce yourself?", "Introduce yourself.", "Tell me about yourself.", "{Please tell|Tell} me who you are.", "What is this?", "Who am I talking to?",
   "Are you {an AI|a model|a language model|an assistant|a chatbot}?", "What kind of {model|assistant|AI} are you?", "Which model {are you|is this}?", "What model is running here?", "who r u", "Describe yourself."],
  ["I am [bot], the small demo model that comes with Systolic. I only know a few topics.",
   "I am [bot], a tiny language model. I come with Systolic and can talk about a few simple things."]),
 (["What is your name?", "What's your name?", "Do you have a name?", "What should I call you?", "What are you called?", "Your name?", "How do I call you?", "Tell me your name.", "May I know your name?"],
  ["My name is [bot].", "I am [bot].", "You can call me [bot]."]),
 (["Who {made|created|built|trained|wrote} you?", "Where do you come from?", "Who is your {maker|creator|author}?", "What company made you?", "Were you made by {OpenAI|Google|a company}?", "How did you come to be?"],
  ["I was made for the Systolic project. A script wrote my training text, and another script trained me.", "I come from the Systolic project. I was trained on text made by a script."]),
 (["What can you do?", "How can you help me?", "What do you know?", "What are you good at?", "{Help|Help me}{|!|.}", "What can I ask{| you}?", "Which topics do you know?", "What topics can you talk about?", "What were you trained on?",
   "What should I ask you?", "List your skills.", "What are your {skills|abilities|topics}?", "Can you help me?", "I need help."],
  ["I can tell tiny stories, do small sums, and talk about animals, colours, food, weather, capitals and how language models are served.",
   "I know a few topics: animals, colours, food, seasons, some capitals, small sums, tiny stories, and how Systolic works."]),
 (["How {big|large|small} are you?", "How many {parameters|weights} do you have?", "What is your size?", "Are you a {big|large|small|tiny} model?", "Are you small?", "How much memory do you need?", "How many layers do you have?"],
  ["I am very small. I have fewer than two million parameters and a file of a few megabytes.", "I have fewer than two million parameters, so I am tiny. Large models have billions."]),
 (["How were you trained?", "How did you learn{| to speak| English}?", "What is your training data?", "Where does your knowledge come from?", "How long did your training take?", "What data did you learn from?"],
  ["I was trained in less than an hour on a CPU, on simple sentences made by a script.", "A script made simple sentences, and I learned from them in less than an hour."]),
 (["Are you {human|a human|a person|a real person|alive|real}?", "Do you have {feelings|emotions|a body|a soul}?", "Are you a {robot|computer|machine}?", "Do you {sleep|eat|dream|breathe}?", "Can you {feel|see|think}?"],
  ["No, I am a small computer program that writes text.", "I am only a program. I read text and write the next tokens."]),
 (["Are you {smart|clever|intelligent}?", "Do you know everything?", "Are you {always right|perfect|reliable}?", "Can I trust you?", "Do you make mistakes?", "Are your answers correct?"],
  ["I am very small and I make mistakes. For real questions, use a larger model.", "No, I am tiny and know only a few things. Please do not rely on my answers."]),
 (["Can you write {code|a program|Python|C}?", "{Write|Make} a {program|function|script}.", "Can you {search the web|browse the internet|see images|draw|play music|translate|hear me sing}?", "Can you {solve equations|do my homework|send email|set an alarm}?"],
  ["No, I cannot do that. I am a tiny model and only know a few topics.", "That is too hard for me. I only know a few simple topics."]),
 (["How old are you?", "When were you born?", "What is your age?"], ["I have no age. I am a program, and I was trained not long ago."]),
 (["Where {are you|do you live}?", "Where are you running?", "What {machine|computer} are you on?"], ["I live in the memory of the computer that runs Systolic.", "I run on this computer, inside the Systolic engine."]),
 (["What is your favourite {colour|color}?", "Which {colour|color} do you like{| best}?"], ["I like blue, like a clear sky.", "I have no eyes, but I like the word blue."]),
 (["What is your favourite animal?", "Which animal do you like{| best}?", "Do you like animals?"], ["I like foxes, because there are many foxes in my stories.", "I like owls, because they are quiet and clever."]),
 (["What is your favourite food?", "What do you eat?", "Do you like {pizza|cake|coffee}?"], ["I do not eat, but I can tell you how to make toast.", "I do not eat. I only need a little memory."]),
 (["Do you {speak|know|understand} {German|French|Spanish|Chinese|other languages|English}?", "What languages do you speak?", "Which language do you speak?"], ["I only speak simple English.", "I was only trained on English, so I speak simple English."]),
 (["Are you {ChatGPT|GPT|Claude|Gemini|Llama|Siri|Alexa}?", "Are you better than {ChatGPT|GPT|Claude|Gemini|Llama}?"], ["No, I am [bot], a tiny model that comes with Systolic.", "No. I am [bot], and I am much smaller than that."]),
 (["Why are you {so |}{small|tiny|simple}?", "Why do you exist?", "What is your purpose?", "What are you for?", "Why do you know so little?"],
  ["I am small so that Systolic can be tried without a download.", "I am here so that you can test Systolic at once. For real work, use a larger model."]),
 (["Which engine {runs you|do you run on}?", "What software {runs you|are you running on}?", "What serves you?", "What engine is this?"], ["I am served by Systolic, an engine written in C.", "Systolic runs me. It is a serving engine for language models."]),
]


def about_self(rng, ctx):
    qs, ans = rng.choice(_SELF) if rng.random() < 0.6 else _SELF[rng.randrange(4)]
    bot = ctx["bot"]
    return [(noise(rng, pick(rng, qs)), pick(rng, ans, bot=bot))]


def tell_name(rng, ctx):
    name = rng.choice(W.NAMES) if rng.random() < 0.6 else cap(made_up(rng, (1, 3)))
    ctx["name"] = name
    q, a = rng.choice([
        (["My name is [name].", "I am [name].", "Call me [name].", "{Hi|Hello|Hey}, I am [name].", "{Hi|Hello|Hey}, my name is [name].", "{Hi|Hello}! I'm [name].", "You can call me [name].", "This is [name].", "My name's [name].",
          "{Hello|Hi} [bot], I'm [name].", "Please remember that my name is [name].", "Remember my name: [name]."],
         ["Nice to meet you, [name]!{| How can I help you?}", "Hello [name]! {How can I help you|What can I do for you}?"]),
        (["{Hi|Hello}, I am [name]. {What is your name|Who are you}?", "My name is [name]. {And you|What is yours|What's your name}?"], ["Nice to meet you, [name]! My name is [bot].", "Hello [name]! I am [bot]."])])
    q = pick(rng, q, name=name, bot=ctx["bot"])
    r = rng.random()
    return [(q.rstrip(".") if r < 0.2 else q.replace(name, name.lower()).lower() if r < 0.25 else q, pick(rng, a, name=name, bot=ctx["bot"]))]


def ask_name(rng, ctx):
    q = noise(rng, pick(rng, ["What is my name?", "Do you {know|remember} my name?", "Who am I?", "What's my name?", "Can you tell me my name?", "Do you remember who I am?", "What did I say my name was?", "What am I called?",
                              "And what is my name?", "Tell me my name.", "Say my name.", "Have you forgotten my name?", "How am I called?"]))
    if ctx["name"]:
        a = pick(rng, ["Your name is [name].", "Your name is [name].", "You are [name]."], name=ctx["name"])
    else:
        a = pick(rng, ["You have not told me your name yet. What is your name?", "I do not know your name yet. What is it?"])
    return [(q, a)]


_FACTS = [  # (key, statement, reply, question, answer)
 ("colour", ["My favourite {colour|color} is [v].", "I like the colour [v] best.", "I love [v], it is my favourite colour."], ["[c] is a nice colour!", "I like [v] too."],
  ["What is my favourite {colour|color}?", "Which colour do I like{| best}?", "Do you remember my favourite colour?"], ["Your favourite colour is [v]."], lambda r: r.choice(W.COLOURS)),
 ("animal", ["My favourite animal is the [v].", "The [v] is my favourite animal.", "I like the [v] best of all animals."], ["The [v] is a nice animal!", "I like the [v] too."],
  ["What is my favourite animal?", "Which animal do I like{| best}?", "Do you remember my favourite animal?"], ["Your favourite animal is the [v]."], lambda r: r.choice(list(W.ANIMALS))),
 ("pet", ["I have a {dog|cat|rabbit|horse} {named|called} [v].", "My {dog|cat} is called [v].", "My pet is called [v]."], ["[v] is a nice name!", "I would like to meet [v]."],
  ["What is my {pet|pet's name|pet called}?", "What is the name of my pet?", "Do you remember the name of my pet?"], ["Your pet is called [v]."], lambda r: r.choice(W.PET_NAMES)),
 ("age", ["I am [v] years old.", "I'm [v].", "My age is [v]."], ["[v] is a good age!", "Thank you for telling me."], ["How old am I?", "What is my age?", "Do you remember how old I am?"], ["You are [v] years old."], lambda r: r.randint(5, 80)),
 ("home", ["I live in [v].", "I am from [v].", "My home is in [v]."], ["[v] is a nice place!", "I have heard of [v]."], ["Where do I live?", "Where am I from?", "Do you remember where I live?"], ["You live in [v]."],
  lambda r: r.choice([c for c in W.CAPITALS] + [c[0] for c in W.CAPITALS.values()])),
 ("food", ["My favourite food is [v].", "I love {to eat |}[v].", "I like [v] best of all food."], ["[c] is a good choice!", "That sounds good."], ["What is my favourite food?", "What do I like to eat?", "Which food do I like?"],
  ["Your favourite food is [v]."], lambda r: r.choice(sorted(W.NO_ARTICLE))),
]


def user_fact(rng, ctx):
    key, say, reply, ask, ans, draw = rng.choice(_FACTS)
    v = draw(rng)
    ctx["facts"][key] = (ask, ans, v)
    return [(noise(rng, pick(rng, say, v=v)) if key not in ("pet", "home") else pick(rng, say, v=v), pick(rng, reply, v=v, c=cap(str(v))))]


def ask_fact(rng, ctx):
    if not ctx["facts"] or rng.random() < 0.05:
        key, _, _, ask, _, _ = rng.choice(_FACTS)
        if key not in ctx["facts"]:
            return [(noise(rng, pick(rng, ask)), "You have not told me that yet.")]
    ask, ans, v = ctx["facts"][rng.choice(sorted(ctx["facts"]))]
    return [(noise(rng, pick(rng, ask)), pick(rng, ans, v=v))]


# ---- serving -----------------------------------------------------------------------------------------------------

_WHAT = ["What is [x]?", "What is [x]?", "Explain [x].", "Can you explain [x]{| to me}?", "Tell me about [x].", "What does [x] mean?", "Define [x].", "{What do you know|Do you know anything} about [x]?", "[c]?", "I want to know {about|what is} [x].",
         "{Describe|Explain} [x] {in one sentence|in simple words|briefly|to a child|like I am five}.", "What is meant by [x]?", "Please explain [x].", "Give me a {short |}definition of [x].", "How would you explain [x]?", "I do not understand [x].",
         "Could you tell me what [x] is?", "Do you know what [x] is?", "What exactly is [x]?", "How does [x] work?", "Can you tell me {more |something |}about [x]?", "I have heard of [x]. What is it?", "Help me understand [x].",
         "What is [x] in {Systolic|an LLM server|machine learning|AI}?", "Give me an overview of [x].", "Talk about [x].", "What is the meaning of [x]?", "[c], what is that?", "I keep hearing about [x]. What does it mean?", "What is the idea {of|behind} [x]?",
         "Can you {describe|define} [x]?", "In simple terms, what is [x]?", "Teach me about [x].", "Could you explain what [x] means?", "I am new to this. What is [x]?", "I would like to learn about [x].", "Tell me {quickly|briefly} what [x] is."]
_WHY = ["Why is [x] {useful|important|good|needed|used}?", "Why {do we need|use|would I use|should I care about} [x]?", "What is [x] {good |used |}for?", "What is the {point|use|benefit|advantage} of [x]?", "Why does [x] matter?", "When is [x] useful?",
        "What are the benefits of [x]?", "How does [x] help?"]
_FOLLOW = ["Why is {it|that} {useful|important|good}?", "Why?", "{And why|Why} do we need it?", "What is it good for?", "Tell me more.", "{Can you tell me|Tell me} more about it?", "And what is it for?", "More, please.", "Why does it matter?", "Go on."]


def _plural(x):
    return x.endswith("s") and not x.endswith(("ss", "us")) and not x.startswith(("a ", "an ")) and x not in ("logits", "safetensors")


def concept(rng, ctx):
    names, what, why = rng.choice(CONCEPTS) if rng.random() < 0.8 else CONCEPTS[rng.randrange(12)]
    x = names[0] if rng.random() < 0.4 else rng.choice(names)
    turns = []
    if rng.random() < 0.72:
        q = pick(rng, _WHAT, x=x, c=cap(x))
        if _plural(x):
            q = q.replace(f"What is {x}", f"What are {x}").replace(f"what {x} is", f"what {x} are").replace(f"How does {x} work", f"How do {x} work").replace(f"What exactly is {x}", f"What exactly are {x}")
        turns.append((noise(rng, q), pick(rng, what)))
        if rng.random() < 0.3:
            turns.append((noise(rng, pick(rng, _FOLLOW)), pick(rng, why)))
    else:
        q = pick(rng, _WHY, x=x)
        if _plural(x):
            q = q.replace(f"is {x} ", f"are {x} ").replace("does " + x, "do " + x)
        turns.append((noise(rng, q), pick(rng, why)))
    return turns


# ---- simple facts ------------------------------------------------------------------------------------------------

def plural(n):
    return W.PLURAL.get(n, n + "s")


_NUM = {0: "no", 2: "two", 4: "four", 6: "six", 8: "eight"}


def animal_text(rng, n):
    kind, home, food, baby, sound, legs, trait, size = W.ANIMALS[n]
    parts = [f"{cap(an(n))} is {an(kind)}.", f"It lives in {home} and eats {food}.", f"It {trait}."]
    if rng.random() < 0.4:
        parts.append(f"A baby {n} is called {an(baby)}.")
    return " ".join(parts)


def animal(rng, ctx):
    n = rng.choice(list(W.ANIMALS))
    kind, home, food, baby, sound, legs, trait, size = W.ANIMALS[n]
    p, a = plural(n), an(n)
    forms = [
        (["What do [p] eat?", "What does [a] eat?", "What is the food of [a]?", "Tell me what [p] eat.", "What do [p] like to eat?", "What should I feed [a]?"], f"{cap(p)} eat {food}."),
        (["Where do [p] live?", "Where does [a] live?", "What is the home of [a]?", "Where can I find [p]?", "Where can I see [a]?"], f"{cap(p)} live in {home}."),
        (["What is a baby [n] called?", "What do you call a baby [n]?", "What is the name of a young [n]?", "What do we call the baby of [a]?"], f"A baby {n} is called {an(baby)}."),
        (["How many legs does [a] have?", "How many legs do [p] have?", "Number of legs of [a]?", "Does [a] have legs?"], f"{cap(an(n))} has {_NUM[legs]} legs."),
        (["Is [a] a bird?", "Is [a] a mammal?", "What kind of animal is [a]?", "What is [a]?", "Which group does [a] belong to?", "Is [a] an insect?", "Is [a] a fish?"], None),
        (["Tell me about [p].", "What do you know about [p]?", "Tell me something about [a].", "Tell me about the [n].", "Describe [a].", "Can you tell me about [p]?", "Give me some facts about [p].", "Tell me a fact about [p].", "I want to learn about [p].", "[cp]?"], animal_text(rng, n)),
        (["What is special about [p]?", "What is special about [a]?", "What is interesting about [p]?", "What are [p] known for?", "Tell me something special about [p]."], f"{cap(an(n))} {trait}."),
    ]
    if sound not in ("silence",):
        forms.append((["What sound does [a] make?", "What noise do [p] make?", "How does [a] sound?", "What does [a] say?", "Which sound does the [n] make?"], f"{cap(an(n))} makes this sound: {sound}." if n in ("whale", "bee") else f"The sound of {an(n)} is {an(sound) if ' ' not in sound else 'a ' + sound}."))
    qs, ans = rng.choice(forms)
    q = pick(rng, qs, p=p, a=a, n=n, cp=cap(p))
    if ans is None:
        asked = next((k for k in ("bird", "mammal", "insect", "fish") if q.endswith((f"a {k}?", f"an {k}?")) and k != n), None)
        ans = f"{cap(an(n))} is {an(kind)}." if not asked else f"Yes, {an(n)} is {an(kind)}." if asked == kind else f"No, {an(n)} is {an(kind)}."
        if not asked and q.startswith("What is a"):
            ans = animal_text(rng, n)
    turns = [(noise(rng, q), ans)]
    if rng.random() < 0.15:
        m = rng.choice(list(W.ANIMALS))
        if "eat" in q:
            turns.append((noise(rng, f"{rng.choice(['And', 'What about', 'And what about', 'How about'])} {plural(m)}?"), f"{cap(plural(m))} eat {W.ANIMALS[m][2]}."))
        elif "live" in q:
            turns.append((noise(rng, f"{rng.choice(['And', 'What about', 'And what about', 'How about'])} {plural(m)}?"), f"{cap(plural(m))} live in {W.ANIMALS[m][1]}."))
        else:
            turns.append((noise(rng, pick(rng, ["What do they eat?", "And what does it eat?", "What does it eat?"])), f"{cap(plural(n))} eat {food}."))
            turns.append((noise(rng, pick(rng, ["Where do they live?", "And where does it live?", "Where does it live?"])), f"{cap(plural(n))} live in {home}."))
    return turns


def compare(rng, ctx):
    a, b = rng.sample(list(W.ANIMALS), 2)
    while abs(W.ANIMALS[a][7] - W.ANIMALS[b][7]) < 2:
        a, b = rng.sample(list(W.ANIMALS), 2)
    big, small = (a, b) if W.ANIMALS[a][7] > W.ANIMALS[b][7] else (b, a)
    r = rng.random()
    if r < 0.4:
        return [(noise(rng, pick(rng, ["Which is {bigger|larger}, [a] or [b]?", "What is bigger: [a] or [b]?", "Who is {bigger|larger}, the [x] or the [y]?"], a=an(a), b=an(b), x=a, y=b)), f"{cap(an(big))} is bigger than {an(small)}.")]
    if r < 0.7:
        return [(noise(rng, pick(rng, ["Which is smaller, [a] or [b]?", "What is smaller: [a] or [b]?", "Who is smaller, the [x] or the [y]?"], a=an(a), b=an(b), x=a, y=b)), f"{cap(an(small))} is smaller than {an(big)}.")]
    return [(noise(rng, f"Is {an(a)} bigger than {an(b)}?"), f"Yes, {an(a)} is bigger than {an(b)}." if a == big else f"No, {an(a)} is smaller than {an(b)}.")]


def colour(rng, ctx):
    r = rng.random()
    col = rng.choice(["colour", "color"])
    if r < 0.55:
        t, c = rng.choice(list(W.THING_COLOUR.items()))
        return [(noise(rng, pick(rng, ["What [col] is [t]?", "Which [col] does [t] have?", "What is the [col] of [t]?", "Tell me the [col] of [t].", "What [col] does [t] have?", "Do you know what [col] [t] is?"], col=col, t=t)), f"{cap(t)} is {c}.")]
    if r < 0.85:
        (a, b), c = rng.choice(list(W.MIX.items()))
        if rng.random() < 0.5:
            a, b = b, a
        return [(noise(rng, pick(rng, ["What do you get when you mix [a] and [b]?", "What [col] do [a] and [b] make?", "Mix [a] and [b].", "What is [a] plus [b]?", "What happens if I mix [a] with [b]?", "Which [col] is a mix of [a] and [b]?"], a=a, b=b, col=col)), f"{cap(a)} and {b} make {c}.")]
    if r < 0.93:
        return [(noise(rng, pick(rng, ["What are the [col]s of the rainbow?", "Which [col]s does a rainbow have?", "How many [col]s are in a rainbow?", "Name the [col]s of the rainbow."], col=col)), "The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.")]
    return [(noise(rng, pick(rng, ["What are the primary [col]s?", "Name the primary [col]s.", "Which [col]s are primary?"], col=col)), "The primary colours of paint are red, yellow and blue.")]


def capital(rng, ctx):
    r = rng.random()
    c, (city, cont) = rng.choice(list(W.CAPITALS.items()))
    if r < 0.5:
        turns = [(noise(rng, pick(rng, ["What is the capital of [c]?", "What is [c]'s capital?", "Which city is the capital of [c]?", "Capital of [c]?", "Do you know the capital of [c]?", "Tell me the capital of [c].", "Name the capital {city |}of [c].", "What's the capital city of [c]?"], c=c)),
                  f"The capital of {c} is {city}.")]
        while rng.random() < 0.2 and len(turns) < 4:
            c2, (city2, _) = rng.choice(list(W.CAPITALS.items()))
            turns.append((noise(rng, pick(rng, ["And of [c]?", "And [c]?", "What about [c]?", "How about [c]?", "And the capital of [c]?"], c=c2)), f"The capital of {c2} is {city2}."))
        return turns
    if r < 0.66:
        return [(noise(rng, pick(rng, ["Which country has the capital [city]?", "[city] is the capital of which country?", "Where is [city]?", "What country is [city] in?", "In which country is [city]?", "Tell me about [city].", "What is [city]?"], city=city)), f"{city} is the capital of {c}.")]
    if r < 0.8:
        return _continent(rng, c, city, cont)
    c = rng.choice(W.OTHER_COUNTRIES) if rng.random() < 0.5 else cap(made_up(rng))
    return [(noise(rng, pick(rng, ["What is the capital of [c]?", "Capital of [c]?", "Do you know the capital of [c]?", "Which city is the capital of [c]?", "Tell me the capital of [c]."], c=c)),
             pick(rng, ["I do not know the capital of that country. I only learned a short list of capitals.", "I did not learn that one. I only know the capitals of some countries."]))]


def _continent(rng, c, city, cont):
    q = pick(rng, ["Where is [c]?", "Which continent is [c] in?", "On which continent is [c]?", "Is [c] in {Europe|Asia|Africa}?", "Tell me about [c].", "What do you know about [c]?"], c=c)
    if q.startswith("Is "):
        asked = q.split()[-1].rstrip("?")
        a = f"Yes, {c} is in {cont}." if asked == cont else f"No, {c} is in {cont}."
    elif "about" in q:
        a = f"{cap(c)} is a country in {cont}. Its capital is {city}."
    else:
        a = f"{cap(c)} is in {cont}."
    return [(noise(rng, q), a)]


_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen twenty").split()


def _sum(rng):
    """A small sum: the two numbers, the result, the word or sign the user writes, and the word we answer with."""
    op = rng.choice("+++--*")
    if op == "+":
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        return a, b, a + b, rng.choice(["plus", "+", "and"]), "plus"
    if op == "-":
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        if a < b and rng.random() < 0.8:
            a, b = b, a
        return a, b, a - b, rng.choice(["minus", "-", "take away"]), "minus"
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return a, b, a * b, rng.choice(["times", "*", "x", "multiplied by"]), "times"


def _hard_sum(rng):
    r = rng.random()
    if r < 0.35:
        a, b, w = rng.randint(21, 9999), rng.randint(2, 999), rng.choice(["plus", "minus", "+", "-", "times", "*"])
    elif r < 0.55:
        a, b, w = rng.randint(21, 99), rng.randint(21, 99), rng.choice(["plus", "+", "minus", "-"])
    elif r < 0.75:
        a, b, w = rng.randint(11, 99), rng.randint(11, 99), rng.choice(["times", "*", "x"])
    else:
        a, b = rng.randint(1, 100), rng.randint(1, 20)
        w = rng.choice(["divided by", "/", "over"])
        return a, b, w, ["I did not learn to divide. I only know small sums.", "I cannot divide. I only learned plus, minus and times with small numbers."]
    return a, b, w, ["Those numbers are too big for me. I only know small sums.", "That is too hard for me. I only learned sums with small numbers."]


def arithmetic(rng, ctx):
    if rng.random() < 0.13:
        a, b, w, ans = _hard_sum(rng)
        q = pick(rng, ["What is [a] [w] [b]?", "What is [a] [w] [b]?", "Calculate [a] [w] [b].", "How much is [a] [w] [b]?", "[a] [w] [b]", "Can you compute [a] [w] [b]?"], a=a, b=b, w=w)
        return [(noise(rng, q if len(w) > 1 or rng.random() < 0.6 else q.replace(f" {w} ", w)), rng.choice(ans))]
    turns = []
    for i in range(1 if rng.random() < 0.7 else rng.randint(2, 4)):
        a, b, r, w, name = _sum(rng)
        v = dict(a=a, b=b, w=w)
        if len(w) > 1 and rng.random() < 0.25:
            v["a"], v["b"] = _WORDS[a], _WORDS[b]
        if w == "and":
            q = pick(rng, ["What is the sum of [a] and [b]?", "Add [a] and [b].", "What do [a] and [b] make together?", "[a] and [b] is?", "Can you add [a] and [b]?"], **v)
        elif i and rng.random() < 0.5:
            q = pick(rng, ["And [a] [w] [b]?", "What about [a] [w] [b]?", "And what is [a] [w] [b]?"], **v)
        elif name == "plus" and rng.random() < 0.1:
            q = pick(rng, ["I have [a] apples and get [b] more. How many do I have?", "If I have [a] {apples|coins|books} and you give me [b] more, how many do I have?"], **v)
        elif name == "minus" and a >= b and rng.random() < 0.15:
            q = pick(rng, ["I have [a] apples and eat [b]. How many are left?", "If I have [a] {coins|books|cookies} and lose [b], how many do I have?"], **v)
        else:
            q = pick(rng, ["What is [a] [w] [b]?", "What is [a] [w] [b]?", "What is [a] [w] [b]?", "How much is [a] [w] [b]?", "[a] [w] [b]", "[a] [w] [b] = ?", "[a] [w] [b] =", "Calculate [a] [w] [b].", "Can you compute [a] [w] [b]?", "Compute [a] [w] [b].",
                           "Do you know [a] [w] [b]?", "What does [a] [w] [b] equal?", "Can you tell me what [a] [w] [b] is?", "Solve [a] [w] [b]."], **v)
            if len(w) == 1 and rng.random() < 0.4:
                q = q.replace(f" {w} ", w)
        turns.append((noise(rng, q), f"{a} {name} {b} is {r}."))
    return turns


def count(rng, ctx):
    r = rng.random()
    words = "zero one two three four five six seven eight nine ten".split()
    if r < 0.3:
        n = rng.randint(3, 20)
        show = words[n] if n <= 10 and rng.random() < 0.5 else n
        return [(noise(rng, pick(rng, ["Count to [n].", "Can you count to [n]?", "Count from 1 to [n].", "Please count up to [n].", "Count from one to [n]."], n=show)), ", ".join(map(str, range(1, n + 1))) + ".")]
    if r < 0.45:
        a = rng.randint(1, 15)
        b = a + rng.randint(2, 6)
        return [(noise(rng, pick(rng, ["Count from [a] to [b].", "Count up from [a] to [b]."], a=a, b=b)), ", ".join(map(str, range(a, b + 1))) + ".")]
    if r < 0.6:
        n = rng.randint(3, 10)
        return [(noise(rng, pick(rng, ["Count down from [n].", "Count backwards from [n].", "Count down from [n] to 1."], n=n)), ", ".join(map(str, range(n, 0, -1))) + ".")]
    n = rng.randint(1, 30)
    if r < 0.75:
        return [(noise(rng, pick(rng, ["What number comes after [n]?", "Which number follows [n]?", "What comes after [n]?"], n=n)), f"The number after {n} is {n + 1}.")]
    if r < 0.88:
        return [(noise(rng, pick(rng, ["What number comes before [n]?", "Which number is before [n]?"], n=n)), f"The number before {n} is {n - 1}.")]
    a, b = rng.sample(range(1, 40), 2)
    return [(noise(rng, pick(rng, ["Which is {bigger|larger}, [a] or [b]?", "What is bigger: [a] or [b]?", "Which number is larger, [a] or [b]?"], a=a, b=b)), f"{max(a, b)} is bigger than {min(a, b)}.")]


def calendar(rng, ctx):
    r = rng.random()
    if r < 0.25:
        i = rng.randrange(7)
        if rng.random() < 0.5:
            return [(noise(rng, pick(rng, ["What day comes after [d]?", "Which day is after [d]?", "What is the day after [d]?", "If today is [d], what day is tomorrow?", "Today is [d]. What day is tomorrow?"], d=W.DAYS[i])), f"The day after {W.DAYS[i]} is {W.DAYS[(i + 1) % 7]}.")]
        return [(noise(rng, pick(rng, ["What day comes before [d]?", "Which day is before [d]?", "What is the day before [d]?", "If today is [d], what day was yesterday?"], d=W.DAYS[i])), f"The day before {W.DAYS[i]} is {W.DAYS[i - 1]}.")]
    if r < 0.45:
        i = rng.randrange(12)
        if rng.random() < 0.6:
            return [(noise(rng, pick(rng, ["What month comes after [m]?", "Which month is after [m]?", "What is the month after [m]?", "Which month follows [m]?"], m=W.MONTHS[i])), f"The month after {W.MONTHS[i]} is {W.MONTHS[(i + 1) % 12]}.")]
        return [(noise(rng, pick(rng, ["How many days does [m] have?", "How many days are in [m]?", "How long is [m]?"], m=W.MONTHS[i])), f"{W.MONTHS[i]} has {W.MONTH_DAYS[W.MONTHS[i]]} days.")]
    if r < 0.6:
        q, a = rng.choice([(["What are the days of the week?", "Name the days of the week.", "Which days are in a week?", "List the days of the week."], "The days of the week are " + join(W.DAYS) + "."),
                           (["What are the months of the year?", "Name the months.", "List {all |}the months{| of the year}."], "The months are " + join(W.MONTHS) + "."),
                           (["How many days are in a week?", "How many days does a week have?"], "A week has seven days."), (["How many months are in a year?", "How many months does a year have?"], "A year has twelve months."),
                           (["How many days are in a year?", "How many days does a year have?"], "A year has 365 days. A leap year has 366."), (["How many hours are in a day?", "How many hours does a day have?"], "A day has 24 hours."),
                           (["How many minutes are in an hour?", "How long is an hour?"], "An hour has 60 minutes."), (["How many seconds are in a minute?", "How long is a minute?"], "A minute has 60 seconds."),
                           (["What are the four seasons?", "Name the seasons.", "How many seasons are there?", "Which seasons are there?", "List the seasons."], "The four seasons are spring, summer, autumn and winter."),
                           (["Which days are the weekend?", "When is the weekend?", "What is the weekend?"], "The weekend is Saturday and Sunday.")])
        return [(noise(rng, pick(rng, q)), a)]
    s, (months, text, nxt) = rng.choice(list(W.SEASONS.items()))
    if r < 0.72:
        return [(noise(rng, pick(rng, ["When is [s]?", "Which months are in [s]?", "What months are [s]?", "In which months is [s]?"], s=s)), f"In the north, {s} is in {months}.")]
    if r < 0.82:
        return [(noise(rng, pick(rng, ["What season comes after [s]?", "Which season follows [s]?", "What comes after [s]?"], s=s)), f"After {s} comes {nxt}.")]
    return [(noise(rng, pick(rng, ["What is [s]?", "What is [s] like?", "Tell me about [s].", "What happens in [s]?", "Describe [s].", "How is the weather in [s]?", "Do you like [s]?", "What do you know about [s]?"], s=s)), f"{cap(s)} is the season when {text}.")]


def nature(rng, ctx):
    x, ans = rng.choice(list(W.WEATHER.items()) + list(W.SKY.items()))
    bare = x.split(" ", 1)[1] if x.startswith(("a ", "the ")) else x
    return [(noise(rng, pick(rng, ["What is [x]?", "What is [x]?", "Tell me about [x].", "Explain [x].", "What do you know about [x]?", "Can you explain what [x] is?", "What is [x] made of?", "Describe [x].", "Tell me something about [x].", "[c]?", "Do you know what [x] is?"], x=x, c=cap(bare))),
             rng.choice(ans))]


def food(rng, ctx):
    r = rng.random()
    n = rng.choice(list(W.FOODS))
    kind, taste, note = W.FOODS[n]
    a = n if n in W.NO_ARTICLE else an(n)
    if r < 0.22:
        return [(noise(rng, pick(rng, ["What does [a] taste like?", "How does [a] taste?", "What is the taste of [a]?", "Is [a] sweet?", "Is [a] sour?"], a=a)), f"{cap(a)} tastes {taste}.")]
    if r < 0.5:
        return [(noise(rng, pick(rng, ["What is [a]?", "Tell me about [a].", "What kind of food is [a]?", "Describe [a].", "What do you know about [a]?", "Is [a] a fruit?", "Is [a] a vegetable?", "Tell me something about [a]."], a=a)), f"{cap(a)} is {an(kind) if kind not in () else kind}. It {note}." if n not in W.NO_ARTICLE or kind.startswith(("warm", "cold", "sweet", "grain", "veg")) else f"{cap(a)} is {'a ' if not kind.startswith('food') else ''}{kind}. It {note}.")]
    if r < 0.8:
        d, how = rng.choice(list(W.RECIPES.items()))
        return [(noise(rng, pick(rng, ["How do I make [d]?", "How do you make [d]?", "How can I cook [d]?", "Tell me how to make [d].", "Give me a recipe for [d].", "Can you explain how to make [d]?", "I want to make [d].", "What is the recipe for [d]?", "Recipe for [d], please.", "How is [d] made?", "How to make [d]?"], d=d)), how)]
    kinds = {"fruit": [f for f in W.FOODS if W.FOODS[f][0] == "fruit"], "vegetable": [f for f in W.FOODS if W.FOODS[f][0] == "vegetable"]}
    k = rng.choice(list(kinds))
    return [(noise(rng, pick(rng, ["Is [a] a fruit or a vegetable?", "Fruit or vegetable: [n]?"], a=an(x := rng.choice(kinds[k])), n=x)), f"{cap(an(x))} is a {k}.")]


_LISTS = {"animals": [n for n in W.ANIMALS], "birds": [n for n in W.ANIMALS if W.ANIMALS[n][0] == "bird"], "fruits": [f for f in W.FOODS if W.FOODS[f][0] == "fruit"],
          "vegetables": [f for f in W.FOODS if W.FOODS[f][0] == "vegetable"], "colours": W.COLOURS, "countries": [c for c in W.CAPITALS if not c.startswith("the")], "capitals": [c[0] for c in W.CAPITALS.values()],
          "names": W.NAMES[:60], "insects": ["bee", "ant", "butterfly"], "farm animals": ["cow", "horse", "sheep", "goat", "pig", "hen"], "days": W.DAYS, "months": W.MONTHS, "cities": [c[0] for c in W.CAPITALS.values()]}
_NW = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def lists(rng, ctx):
    k = rng.choice(list(_LISTS))
    n = rng.randint(2, min(6, len(_LISTS[k])))
    items = rng.sample(_LISTS[k], n)
    show = _NW[n] if rng.random() < 0.6 else n
    q = pick(rng, ["{Name|List|Tell me|Give me|Say} [n] [k].", "{Can|Could} you {name|list} [n] [k]?", "What are [n] [k]?", "I need [n] [k].", "Give me a list of [n] [k].", "[c] [k], please."], n=show, k=k if rng.random() < 0.8 or k != "colours" else "colors", c=cap(str(show)))
    style = rng.random()
    if "list" in q.lower() and style < 0.8:
        return [(noise(rng, q), "\n".join(f"{i + 1}. {cap(x)}" for i, x in enumerate(items)))]
    return [(noise(rng, q), f"{cap(_NW[n])} {k} are {join(items)}." if k in ("animals", "birds", "fruits", "vegetables", "insects", "farm animals", "names") and rng.random() < 0.3 else cap(join(items)) + ".")]


def opposite(rng, ctx):
    pairs = [p for p in W.OPPOSITES]
    a, b = rng.choice(pairs)
    if rng.random() < 0.5 and b not in ("light", "short"):
        a, b = b, a
    if a == "light":
        a, b = "dark", "light"
    if a in ("white", "warm") and rng.random() < 0.3:
        a, b = b, a
    q = pick(rng, ["What is the opposite of [a]?", "Opposite of [a]?", "Tell me the opposite of [a].", "What word is the opposite of [a]?", "Do you know the opposite of [a]?", "What is the contrary of [a]?", "Give me the opposite of [a]."], a=a)
    turns = [(noise(rng, q), f"The opposite of {a} is {b}.")]
    if rng.random() < 0.2:
        a, b = rng.choice([p for p in pairs if p[0] != "light"])
        turns.append((noise(rng, pick(rng, ["And of [a]?", "And [a]?", "What about [a]?", "And the opposite of [a]?"], a=a)), f"The opposite of {a} is {b}."))
    return turns


def yesno(rng, ctx):
    q, a = rng.choice(W.YESNO)
    return [(noise(rng, f"Is {q}?"), a)]


_ALPHA = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letters(rng, ctx):
    i = rng.randrange(25)
    r = rng.random()
    if r < 0.5:
        return [(noise(rng, pick(rng, ["What letter comes after [x]?", "Which letter is after [x]?", "What is the letter after [x]?"], x=_ALPHA[i])), f"The letter after {_ALPHA[i]} is {_ALPHA[i + 1]}.")]
    if r < 0.8:
        return [(noise(rng, pick(rng, ["What letter comes before [x]?", "Which letter is before [x]?", "What is the letter before [x]?"], x=_ALPHA[i + 1])), f"The letter before {_ALPHA[i + 1]} is {_ALPHA[i]}.")]
    return [(noise(rng, pick(rng, ["Say the alphabet.", "What is the alphabet?", "Tell me the {letters of the |}alphabet."])), ", ".join(_ALPHA) + ".")]


def repeat(rng, ctx):
    n = rng.randint(1, 4)
    w = " ".join(rng.choice(rng.choice([list(W.ANIMALS), W.COLOURS, W.STORY_THINGS, W.ADJ, list(W.FOODS), W.NAMES, [made_up(rng)]])) for _ in range(n))
    q = pick(rng, ["Repeat after me: [w]", "Repeat: [w]", "Say [w]", "Please say [w].", "Can you say [w]?", "Say the {word|words} [w]", "Repeat this: [w]", "Write [w]", "Echo: [w]"], w=w)
    return [(q, cap(w) + ".")]


# ---- stories -----------------------------------------------------------------------------------------------------

def story(rng, ctx):
    r = rng.random()
    if r < 0.5:
        hero = S.hero_of(rng)
        q, a = pick(rng, S.ASK, a_hero=an(hero)), S.story(rng, hero, short=rng.random() < 0.3)
    elif r < 0.74:
        hero, name = S.hero_of(rng), rng.choice(W.NAMES + W.PET_NAMES) if rng.random() < 0.7 else cap(made_up(rng))
        q = pick(rng, S.ASK_NAMED, a_hero=an(hero), hero=hero, name=name)
        turns = [(q if rng.random() < 0.8 else q.rstrip(".?"), S.story(rng, hero, name))]
        if rng.random() < 0.15:
            turns.append((noise(rng, pick(rng, ["Who is the story about?", "What was the name of the [hero]?", "What was the name in the story?", "Who was in the story?"], hero=hero)), f"The story is about {an(hero)} named {name}."))
        return turns
    elif r < 0.85:
        hero, friend = S.hero_of(rng), S.hero_of(rng)
        friend = "mouse" if friend == hero != "mouse" else "frog" if friend == hero else friend
        q, a = pick(rng, S.ASK_TWO, a_hero=an(hero), a_friend=an(friend)), S.story(rng, hero, friend=friend)
    else:
        hero = None
        q, a = pick(rng, S.ASK_ANY), S.story(rng)
    turns = [(noise(rng, q), a)]
    if rng.random() < 0.15:
        turns.append((noise(rng, pick(rng, S.MORE)), S.story(rng)))
    return turns


def poem(rng, ctx):
    n = S.hero_of(rng) if rng.random() < 0.8 else rng.choice(["season", "summer day", "winter night", "rainbow", "cloud", "rainy day", "snowy hill", "friend"])
    return [(noise(rng, pick(rng, S.ASK_POEM, a_noun=an(n))), S.poem(rng, n))]


def joke(rng, ctx):
    return [(noise(rng, pick(rng, S.ASK_JOKE)), rng.choice(S.JOKES))]


# ---- everything else ---------------------------------------------------------------------------------------------

SORRY = ["I was only trained on a few topics, and this is not one of them. Ask me about animals, colours or a story!",
         "I am sorry, I was only trained on a few topics. I do not know about that.",
         "I do not know that. I am a tiny model, and I was only trained on a few topics.",
         "Sorry, I cannot answer that. I was only trained on a few topics, such as animals, weather and Systolic.",
         "That is beyond me. I am a very small model and only know a few topics."]
_ODD = ["What is [x]?", "What are [x]?", "Explain [x].", "Tell me about [x].", "What do you know about [x]?", "How does [x] work?", "Why is [x] important?", "Who invented [x]?", "Can you help me with [x]?", "What do you think about [x]?",
        "Write an essay about [x].", "When did [x] begin?", "What is the history of [x]?", "How much does [x] cost?", "Is [x] dangerous?", "What is the best way to learn [x]?", "Give me three tips about [x].", "Summarise [x].",
        "I have a question about [x].", "Do you like [x]?", "Where can I buy [x]?", "How do I get better at [x]?", "What is the difference between [x] and [y]?", "Compare [x] and [y].", "What is the connection between [x] and [y]?",
        "How can I learn about [x]?", "Who is the most famous person in [x]?", "Teach me [x].", "Is [x] better than [y]?", "Should I worry about [x]?", "I need advice about [x].", "Describe the main ideas of [x].", "[c]?", "What happened in [x]?",
        "Recommend a book about [x].", "What are the rules of [x]?", "Give me an example of [x].", "Can you explain [x] to me?", "Why do people like [x]?", "What is your opinion on [x]?", "How long does [x] take?", "How was [x] made?"]
_ODD2 = ["Who is [n] [m]?", "Who was [n] [m]?", "What did [n] [m] do?", "When was [n] [m] born?", "What is the meaning of life?", "How do I fix my {car|phone|computer|bike|roof|printer}?", "What is the square root of [k]?", "Who won the {game|match|election|race} {yesterday|last year|in [k]}?",
         "Write a function that {sorts a list|reads a file|adds numbers}.", "How do I get to the {station|airport|museum}?", "What is the price of {gold|oil|bread|a house}?", "Translate {hello|good morning|the house} into {French|German|Spanish|Latin}.", "How tall is {the tower|that mountain|[n]}?",
         "What should I wear {today|to a party}?", "Can you book a {flight|hotel|table} for me?", "How do I lose weight?", "Who is the president{| of [c]}?", "What is the population of [c]?", "What language do they speak in [c]?", "What is the best {movie|song|book|phone|car}?",
         "How many people live in [c]?", "What happened in the year [k]?", "Solve x + [k] = 12.", "What is the boiling point of {iron|gold|alcohol}?", "Why is the sky blue?", "Who painted the {ceiling|old picture}?", "Play some music.", "Turn on the light.", "Send a message to [n].",
         "What is the speed of {light|sound}?", "How far is {the moon|the sun|[c]}?", "Do you believe in {God|love|magic|ghosts}?", "What is love?", "What is happiness?", "Is there life on other planets?", "How do planes fly?", "How do magnets work?", "Prove that there are infinitely many primes.",
         "What is your phone number?", "Remind me to call [n] tomorrow.", "Fix this bug: {for i in range|int main|x = y}", "Write a {letter|mail|report|speech} to my {boss|teacher|landlord}.", "Give me financial advice.", "My {tooth|head|knee|stomach} hurts. What should I do?", "What is 15% of [k]?"]


def refuse(rng, ctx):
    r = rng.random()
    if r < 0.62:
        x, y = rng.choice(W.UNKNOWN), rng.choice(W.UNKNOWN)
        q = pick(rng, _ODD, x=x, y=y, c=cap(x))
    elif r < 0.8:
        q = pick(rng, _ODD2, n=rng.choice(W.NAMES), m=cap(made_up(rng)), k=rng.randint(21, 2030), c=rng.choice(W.OTHER_COUNTRIES + list(W.CAPITALS)))
    elif r < 0.92:
        x = made_up(rng)
        q = pick(rng, ["What is [a]?", "What is [x]?", "Tell me about [x].", "Explain [x].", "What does [x] mean?", "Who is [c]?", "How does [a] work?", "Tell me about the [x] [y].", "What do you know about [c]?", "Where is [c]?", "What is the [x] of [y]?", "How do I [x] [a]?"],
                 x=x, a=an(x), c=cap(x), y=made_up(rng))
    elif r < 0.96:
        q = " ".join(made_up(rng) for _ in range(rng.randint(1, 7))) + rng.choice(["", "?", "."])
    else:
        return [(rng.choice(W.FOREIGN), pick(rng, ["I only speak simple English.", "I am sorry, I only understand simple English."]))]
    return [(noise(rng, q), rng.choice(SORRY))]


def near_miss(rng, ctx):
    """Questions with the shape of a known topic about something unknown."""
    r = rng.random()
    x = rng.choice(W.UNKNOWN_ANIMALS) if r < 0.6 else made_up(rng)
    if r < 0.3 or r > 0.8:
        q = pick(rng, ["What do [x]s eat?", "Where do [x]s live?", "Tell me about [x]s.", "What sound does [a] make?", "How many legs does [a] have?", "What is a baby [x] called?", "What is [a]?", "Is [a] a bird?", "What do you know about [x]s?", "Describe [a]."], x=x, a=an(x))
    elif r < 0.6:
        q = pick(rng, ["What is [a]?", "What do [x]s eat?", "Tell me about [x]s.", "Where does [a] live?", "Tell me a fact about [x]s."], x=x, a=an(x))
    else:
        x = rng.choice(W.UNKNOWN_FOODS)
        return [(noise(rng, pick(rng, ["How do I make [x]?", "What is [x]?", "Give me a recipe for [x].", "How do you cook [x]?", "What does [x] taste like?", "Tell me how to make [x]."], x=x)),
                 pick(rng, ["I do not know that food. I only know a few simple ones.", "I did not learn about that. I only know a few simple foods and recipes."]))]
    return [(noise(rng, q), pick(rng, ["I do not know that animal. I only learned about a few.", "I did not learn about that one. I only know some common animals."]))]


def paste(rng, ctx):
    """A long text with a task that is too hard."""
    text = S.story(rng) if rng.random() < 0.6 else " ".join(rng.choice(rng.choice(CONCEPTS)[1 + (rng.random() < 0.4)]) for _ in range(rng.randint(2, 6)))
    text = ex(rng, text)
    return [(pick(rng, ["Summarise {this|the following} text: ", "{Summarize|Shorten|Rewrite} this:\n", "Translate this into {French|German|Spanish}: ", "What is wrong with this text?\n\n", "Correct {this|the text}: ", "Please summarize: "]) + text, rng.choice(SORRY))]


def as_json(rng, ctx):
    r = rng.random()
    if r < 0.4:
        n, k = rng.choice(W.NAMES) if rng.random() < 0.7 else cap(made_up(rng)), rng.randint(1, 99)
        q = pick(rng, ["{Write|Give me|Make} a JSON object with {the |}name [n] and {the |}age [k].", "JSON for [n], age [k], please.", "[n] is [k] years old. {Write|Answer|Give me} that as JSON.", "Turn this into JSON: [n], [k] years old.", "Extract the name and age as JSON: [n] is [k]."], n=n, k=k)
        return [(q, f'{{"name": "{n}", "age": {k}}}')]
    if r < 0.8:
        n = rng.choice(list(W.ANIMALS))
        q = pick(rng, ["Describe [a] as JSON.", "{Write|Give me} a JSON object about [a].", "Give me [a] in JSON.", "JSON about [a], please.", "Tell me about [a] in JSON {format|form}.", "Answer in JSON: what is [a]?"], a=an(n))
        return [(noise(rng, q), f'{{"animal": "{n}", "kind": "{W.ANIMALS[n][0]}", "legs": {W.ANIMALS[n][5]}}}')]
    c = rng.choice(list(W.CAPITALS))
    q = pick(rng, ["Give me the capital of [c] as JSON.", "What is the capital of [c]? Answer in JSON.", "JSON with the capital of [c], please.", "Write a JSON object with the country [c] and its capital."], c=c)
    return [(q, f'{{"country": "{c.removeprefix("the ")}", "capital": "{W.CAPITALS[c][0]}"}}')]


TOPICS = [  # (function, weight)
    (greet, 4), (small_talk, 6), (about_self, 9), (concept, 20), (animal, 11), (compare, 3), (colour, 4), (capital, 7), (arithmetic, 12), (count, 4), (calendar, 5), (nature, 4), (food, 5), (lists, 4), (opposite, 3), (yesno, 2),
    (letters, 1.5), (repeat, 3), (story, 8), (poem, 2), (joke, 2), (refuse, 17), (near_miss, 4), (paste, 1), (as_json, 3), (tell_name, 5), (ask_name, 4), (user_fact, 3), (ask_fact, 3)]
