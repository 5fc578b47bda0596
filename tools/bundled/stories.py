"""Tiny stories, poems and jokes from templates. A story depends on its hero, the hero's name and the place."""

from text import ex, pick, an, cap, made_up
import words as W

_OPEN = ["Once upon a time there was [a_hero] {named|called} [name]. [name] lived [place].",
         "Once upon a time, [a_hero] {named|called} [name] lived [place].",
         "[cap_place] there lived [a_hero]. {Its|The [hero]'s} name was [name].",
         "There was once [a_hero] {named|called} [name]. [name] lived [place].",
         "Long ago, [a_hero] {named|called} [name] lived [place]."]
_MID = [
 # lost and found
 ["One {morning|day|evening}, [name] lost {a|the} [obj]. [name] looked {under the stones|behind the door|everywhere}, but it was gone.",
  "{Then a|A} [friend] came by and {asked|said}, \"{Why are you sad|What is wrong}?\" [name] told the [friend] {everything|about the [obj]}.",
  "{Together they looked again|They looked together}, and {soon|at last} they found the [obj] {under a leaf|near the river|behind an old tree|in the tall grass}.",
  "[name] was very happy and said, \"{Thank you, my friend|Thank you so much}!\""],
 # a storm
 ["One {night|day}, a {big|great|loud} storm came. The wind blew and the rain fell, and [name] was {afraid|scared}.",
  "{Outside|Near the door}, a little [friend] was {wet and cold|shaking in the rain}. [name] {opened the door|called out} and said, \"Come {in|inside}, there is room for two.\"",
  "They {told stories|sang songs|shared some warm soup} until the storm was over.",
  "In the morning the sun came out, and they {were friends|had become good friends}."],
 # a journey
 ["[name] wanted to see the {sea|top of the mountain|big city|end of the rainbow}. So one {morning|day} [name] {packed|took} a [obj] and went away.",
  "{On the way|After a while}, [name] met {a|a friendly} [friend]. \"{May I come with you|Can I come too}?\" asked the [friend]. \"{Yes, of course|Of course}!\" said [name].",
  "They walked {over hills and through fields|all day and slept under the stars}, and {at last|in the end} they {arrived|were there}.",
  "It was {beautiful|more beautiful than a dream}, but the best part was {the new friend|that they were together}."],
 # learning
 ["[name] could not {sing|dance|swim|paint|whistle}, and {that made [name] sad|[name] felt sad about it}.",
  "A {wise|clever|kind} [friend] said, \"{Try a little every day|You only need to practise}.\" So [name] {tried and tried|practised every day}.",
  "{It was hard at first, but it got easier|At first it did not work, but [name] did not give up}.",
  "{One day|After many days} [name] could do it, and {everyone clapped|all the friends cheered}."],
 # a gift
 ["One day [name] found a [obj] {in the grass|near the path|under a tree}. It was {shining|beautiful}, but it belonged to someone else.",
  "[name] asked the [friend], \"Is this yours?\" \"{Yes, I lost it yesterday|Yes! I was looking for it}!\" said the [friend].",
  "[name] gave the [obj] back {at once|with a smile}.",
  "The [friend] was so {happy|glad} that they {had a party|shared a big cake|danced all night}."],
 # sharing
 ["It was {winter|autumn|a hot summer}, and there was very little to eat. [name] had {one apple|a piece of bread|a small cake} left.",
  "A hungry [friend] {came to the door|came along} and asked for {help|something to eat}. [name] {cut it in two|shared it} and gave half to the [friend].",
  "The next day the [friend] came back with {a basket of berries|a pot of soup|a bag of nuts}.",
  "They ate together and {laughed|talked for hours}."],
 # a dream / star
 ["Every night [name] looked at the {moon|stars} and made a wish. [name] wished for a {friend|good friend}.",
  "One night a star fell {near the hill|into the garden}. Beside it sat a small [friend] with a [obj].",
  "\"{Hello|Good evening}, [name],\" said the [friend]. \"{Do you want to play|Will you be my friend}?\"",
  "They played {until the sun came up|all night}, and [name] was never lonely again."],
]
_END = ["{From that day on|After that}, [name] and the [friend] were {best|good} friends.", "And {so|that is how} [name] learned that {kindness comes back|it is good to share|friends make everything better|it pays to be patient}.",
        "They lived happily ever after.", "That night [name] {slept very well|fell asleep with a smile}.", "The end."]


def story(rng, hero=None, name=None, short=False, friend=None):
    hero = hero or (rng.choice(list(W.ANIMALS)) if rng.random() < 0.6 else rng.choice(W.STORY_THINGS))
    name = name or rng.choice(W.NAMES + W.PET_NAMES)
    friend = friend or rng.choice([f for f in W.FRIENDS if f != hero])
    adj = rng.choice(W.ADJ)
    place = rng.choice(W.PLACES)
    place = ("on " if "farm" in place or "island" in place or "mountain" in place else "in ") + place
    v = dict(hero=hero, name=name, friend=friend, place=place, cap_place=cap(place), obj=rng.choice(W.OBJECTS),
             a_hero=an(hero) if rng.random() < 0.5 else an(adj + " " + hero))
    parts = [rng.choice(_OPEN)] + rng.choice(_MID)
    if not short:
        parts.append(rng.choice(_END))
    return " ".join(ex(rng, p, **v) for p in parts)


def hero_of(rng):
    """A hero a user may ask for: an animal, a thing from the list, sometimes any other noun."""
    r = rng.random()
    if r < 0.5:
        return rng.choice(list(W.ANIMALS))
    if r < 0.88:
        return rng.choice(W.STORY_THINGS)
    return rng.choice(W.MORE_THINGS) if rng.random() < 0.6 else rng.choice([f for f in W.FOODS if f not in W.NO_ARTICLE]) if rng.random() < 0.5 else made_up(rng)


ASK = ["{Tell|Give} me a {|short |little |tiny |nice |new |bedtime }story about [a_hero].", "{Can|Could} you tell me a {|short |bedtime }story about [a_hero]?",
       "I {want|would like} {to hear |}a {|short |funny |nice }story about [a_hero].", "Write a {|short |tiny }story {about|with} [a_hero].", "{Make up|Invent} a {|short }story about [a_hero].",
       "A story about [a_hero], please.", "Story about [a_hero]", "Do you know a story {about|with} [a_hero]?", "Write {|me }something about [a_hero] for {kids|children|my son|my daughter}.",
       "Once upon a time there was [a_hero]. Please continue the story.", "Tell a tale {of|about} [a_hero].", "Please write a {|short }story about [a_hero]."]
ASK_NAMED = ["Tell me a {|short }story about [a_hero] {named|called} [name].", "Write a {|short |bedtime }story about [a_hero] {named|called} [name].",
             "Can you tell me a story about [name] the [hero]?", "I want a story about [a_hero] {whose name is|with the name} [name].", "Tell me about [name] the [hero], as a story."]
ASK_TWO = ["{Tell|Give} me a {|short }story about [a_hero] and [a_friend].", "Write a {|short }story {about|with} [a_hero] and [a_friend].", "Can you tell me a story about [a_hero] and [a_friend]?", "[a_hero] and [a_friend]: {tell|write} me a story."]
ASK_ANY = ["Tell me a {|short |bedtime |nice |little |funny }story.", "Can you {tell me|write} a {|short }story?", "I want {to hear |}a story.", "Do you know {a story|any stories}?", "Story, please!",
           "Write a {|short |tiny }story.", "Make up a story.", "Please tell me a {bedtime |}story.", "Can I have a story?"]
MORE = ["{Another|One more|Another story|One more story}{|,} please{|.|!}", "Tell me another {one|story}.", "{That was nice|I liked that|Nice|Great}. {Another one|One more}?", "Can I have another {one|story}?", "Again!"]

_POEMS = [
 ("[cap_a] [noun] so {bright|fine} and {small|free},\n{It sings a happy song|It makes a little song} for me.\nThe {wind is soft|sun is warm}, the sky is blue,\nAnd I will share {this|the} day with you."),
 ("I saw [a_noun] {one|early one} sunny day,\nIt {smiled at me|looked at me} and went away.\nI {waited long, I waited|sat there still, I sat there} late,\nAnd found it by the garden gate."),
 ("Oh little [noun], where do you go,\n{In summer sun|In autumn wind} and winter snow?\nI go where {all the rivers|little rivers} run,\nAnd then I {rest|sleep} beneath the sun."),
 ("The moon is high, the night is {deep|long},\n[cap_a] [noun] {hums|sings} a quiet song.\n{The stars look down|The clouds drift by}, the world is still,\nAnd all is calm upon the hill."),
]
ASK_POEM = ["{Write|Tell|Give} me a {|short |little }poem about [a_noun].", "Can you write a {|short }poem about [a_noun]?", "A {|short }poem about [a_noun], please.", "Please write a poem about [a_noun].",
            "I want a poem about [a_noun].", "Make a {|short }rhyme about [a_noun]."]


def poem(rng, noun=None):
    noun = noun or hero_of(rng)
    a = an(noun)
    return pick(rng, _POEMS, noun=noun, a_noun=a, cap_a=cap(a.split()[0]))


JOKES = ["Why did the token cross the road? To get to the next block.", "Why was the cache so calm? It had seen it all before.", "What did the CPU say to the TPU? You multiply faster, but I can do my own laundry.",
         "Why did the fox bring a ladder? It wanted to reach the high notes.", "What does a snowman eat for lunch? A cold sandwich.", "Why do bees have sticky hair? They use honey combs.",
         "Why was the owl a good guest? It was not a hoot too late.", "What did one wall say to the other? Let us meet at the corner.", "Why did the banana go to the doctor? It was not peeling well.",
         "Why was the model tired? It had too many layers on.", "What is a sheep's favourite chip? A baa-sed processor.", "Why did the clock go on holiday? It needed some time off.",
         "What do clouds wear under their coats? Thunderwear.", "Why was the kernel so proud? It was fused with joy.", "What did the sea say to the sand? Nothing, it just waved."]
ASK_JOKE = ["Tell me a {|short |good |funny }joke.", "{Do you know|Can you tell me|Have you got} a {|good |funny }joke?", "Make me laugh.", "Say something funny.", "I want {to hear |}a joke.", "Joke, please!", "Another joke{|, please}."]
