"""Word lists of the generated text of systolic-tiny. Plain data, written for this project.

Nothing here is random: generate.py draws from these lists with a seeded generator.
"""

NAMES = """Anna Ben Clara David Emma Felix Grace Henry Isla Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tara
Victor Wendy Zoe Ada Alan Barbara Boris Carl Celia Daniel Diana Edgar Elena Frank Fiona George Gina Hana Hugo
Ivan Ines Jonas Julia Karl Karen Liam Linda Marco Maria Nadia Nina Omar Oscar Peter Paula Quinn Rita Robert
Sara Simon Tina Thomas Uma Vera Walter Yara Yusuf Zara Priya Arjun Mei Kenji Yuki Chen Amir Layla Fatima Ali
Sofia Lucas Mateo Camila Pedro Lucia Bruno Chloe Louis Marie Pierre Anton Olga Dmitri Ingrid Lars Freya Sven
Bella Max Lily Tom Alice Bob Eve Lucy Molly Ella Amy Jane John James Mary Susan Mark Luke Adam Ruth Naomi Joel
Aisha Kofi Ama Tunde Chidi Zola Ravi Anita Deepa Sanjay Kiran Leila Hassan Samir Noor Tariq Ruby Pearl Violet
Iris Hazel Ivy Rose Daisy Jasper Miles Owen Evan Ryan Dylan Ethan Mason Logan Abel Nora Stella Maya Eli Theo
Otto Greta Heidi Klaus Dora Milo Remy Cleo Juno Bianca Carlos Diego Elsa Gabriel Helen Igor Jorge Kira Lena
Monica Nick Philip Rachel Stefan Teresa Ursula Vince Will Xavier Yvonne Zach Margaret Charlotte Amelia Arthur
Edith Alfred Harold Martha Stanley Winston Beatrix Cedric Dorothy Eleanor Florence Gilbert""".split()

PET_NAMES = """Rex Bella Coco Luna Milo Biscuit Pepper Shadow Patch Ginger Muffin Pip Sunny Daisy Toffee Rusty
Smokey Bubbles Nibbles Cookie Waffles Olive Mango Peanut Clover Hazel Bramble Maple Acorn Button Pickle Scout
Ziggy Mocha Nutmeg Storm Willow Poppy Dusty Felix Rosie Oscar Honey Bean Fern Basil Juniper""".split()

BOT_NAMES = """Bolt Pixel Nova Echo Spark Robin Comet Orbit Pebble Sage Iris Atlas Chip Dot Luma Quill Ember Kit
Beacon Otto Marvin Sunny Zed Vega Tilly Rook Finch Cosmo Ripple Scout""".split()

# name: (kind, home, food, baby, sound, legs, trait, size rank 1..10)
ANIMALS = {
    "fox": ("mammal", "the forest", "mice, berries and insects", "kit", "bark", 4, "has a long bushy tail", 4),
    "dog": ("mammal", "a home with people", "meat and dog food", "puppy", "bark", 4, "is loyal and likes to play", 4),
    "cat": ("mammal", "a home with people", "fish and meat", "kitten", "meow", 4, "is quiet and sees well at night", 3),
    "cow": ("mammal", "a farm", "grass", "calf", "moo", 4, "gives milk", 8),
    "horse": ("mammal", "a farm", "grass and hay", "foal", "neigh", 4, "can run fast", 8),
    "sheep": ("mammal", "a farm", "grass", "lamb", "baa", 4, "has a thick coat of wool", 5),
    "goat": ("mammal", "the hills", "grass and leaves", "kid", "bleat", 4, "can climb steep rocks", 5),
    "pig": ("mammal", "a farm", "corn and vegetables", "piglet", "oink", 4, "likes to roll in the mud", 5),
    "mouse": ("mammal", "a small hole", "seeds and grain", "pup", "squeak", 4, "is small and quick", 1),
    "rabbit": ("mammal", "a burrow", "grass and carrots", "kit", "squeak", 4, "has long ears", 2),
    "bear": ("mammal", "the forest", "fish, berries and honey", "cub", "growl", 4, "sleeps through the winter", 8),
    "wolf": ("mammal", "the forest", "meat", "pup", "howl", 4, "lives in a pack", 5),
    "lion": ("mammal", "the grassland", "meat", "cub", "roar", 4, "lives in a family called a pride", 7),
    "tiger": ("mammal", "the jungle", "meat", "cub", "roar", 4, "has orange fur with black stripes", 7),
    "elephant": ("mammal", "the grassland", "grass and leaves", "calf", "trumpet", 4, "has a long trunk", 10),
    "monkey": ("mammal", "the jungle", "fruit and leaves", "infant", "chatter", 4, "can climb trees", 4),
    "giraffe": ("mammal", "the grassland", "leaves", "calf", "hum", 4, "has a very long neck", 9),
    "zebra": ("mammal", "the grassland", "grass", "foal", "bray", 4, "has black and white stripes", 7),
    "deer": ("mammal", "the forest", "grass and leaves", "fawn", "grunt", 4, "can run and jump well", 6),
    "squirrel": ("mammal", "the trees", "nuts and seeds", "kit", "chatter", 4, "hides nuts for the winter", 2),
    "hedgehog": ("mammal", "the garden", "insects and worms", "hoglet", "snuffle", 4, "rolls into a ball of spines", 2),
    "kangaroo": ("mammal", "the dry plains of Australia", "grass", "joey", "grunt", 4, "carries its baby in a pouch", 6),
    "bat": ("mammal", "a cave", "insects and fruit", "pup", "squeak", 2, "can fly in the dark", 1),
    "whale": ("mammal", "the ocean", "fish and tiny sea animals", "calf", "song", 0, "is one of the largest animals", 10),
    "dolphin": ("mammal", "the ocean", "fish", "calf", "click", 0, "is clever and playful", 6),
    "owl": ("bird", "the forest", "mice", "owlet", "hoot", 2, "hunts at night", 3),
    "duck": ("bird", "a pond", "plants and insects", "duckling", "quack", 2, "can swim and fly", 3),
    "hen": ("bird", "a farm", "seeds and worms", "chick", "cluck", 2, "lays eggs", 3),
    "penguin": ("bird", "the cold south", "fish", "chick", "honk", 2, "cannot fly but swims well", 4),
    "eagle": ("bird", "the mountains", "fish and small animals", "eaglet", "screech", 2, "has very sharp eyes", 4),
    "parrot": ("bird", "the jungle", "fruit and seeds", "chick", "squawk", 2, "has bright feathers", 3),
    "swan": ("bird", "a lake", "water plants", "cygnet", "hiss", 2, "has a long white neck", 4),
    "crow": ("bird", "the woods and towns", "seeds and insects", "chick", "caw", 2, "is very clever", 3),
    "frog": ("amphibian", "a pond", "flies and insects", "tadpole", "croak", 4, "has a long sticky tongue", 1),
    "snake": ("reptile", "the grass and the desert", "mice and eggs", "snakelet", "hiss", 0, "has no legs", 3),
    "turtle": ("reptile", "the water and the shore", "plants and small fish", "hatchling", "hiss", 4, "has a hard shell", 3),
    "crocodile": ("reptile", "rivers", "fish and meat", "hatchling", "growl", 4, "has strong jaws", 8),
    "bee": ("insect", "a hive", "nectar and pollen", "larva", "buzz", 6, "makes honey", 1),
    "ant": ("insect", "a nest in the ground", "seeds and sweet things", "larva", "soft click", 6, "works in a large team", 1),
    "butterfly": ("insect", "the meadow", "nectar", "caterpillar", "soft flutter", 6, "has colourful wings", 1),
    "spider": ("arachnid", "a web", "flies and insects", "spiderling", "very soft tap", 8, "spins a web of silk", 1),
    "shark": ("fish", "the ocean", "fish", "pup", "silence", 0, "has many sharp teeth", 8),
    "goldfish": ("fish", "a pond or a tank", "fish food and plants", "fry", "silence", 0, "is orange and gold", 1),
    "salmon": ("fish", "rivers and the ocean", "small fish and insects", "fry", "silence", 0, "swims up rivers", 3),
}
PLURAL = {"fox": "foxes", "mouse": "mice", "wolf": "wolves", "sheep": "sheep", "deer": "deer", "fish": "fish",
          "salmon": "salmon", "goldfish": "goldfish", "butterfly": "butterflies", "monkey": "monkeys"}

COLOURS = "red blue green yellow orange purple pink brown black white grey".split()
MIX = {("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple", ("red", "white"): "pink",
       ("black", "white"): "grey", ("red", "green"): "brown"}
THING_COLOUR = {"the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "a banana": "yellow",
                "an orange": "orange", "a tomato": "red", "coal": "black", "milk": "white", "a leaf": "green",
                "a carrot": "orange", "a lemon": "yellow", "the sea": "blue", "chocolate": "brown", "blood": "red",
                "a strawberry": "red", "a frog": "green", "a crow": "black", "a pig": "pink", "a polar bear": "white",
                "an elephant": "grey", "the night sky": "black", "a cucumber": "green", "a plum": "purple",
                "a cherry": "red", "wood": "brown", "a cloud": "white", "a pea": "green", "a lime": "green",
                "a pumpkin": "orange", "a flamingo": "pink", "salt": "white"}

CAPITALS = {  # country: (capital, continent)
    "France": ("Paris", "Europe"), "Germany": ("Berlin", "Europe"), "Italy": ("Rome", "Europe"),
    "Spain": ("Madrid", "Europe"), "Portugal": ("Lisbon", "Europe"), "England": ("London", "Europe"),
    "Ireland": ("Dublin", "Europe"), "Greece": ("Athens", "Europe"), "Austria": ("Vienna", "Europe"),
    "Poland": ("Warsaw", "Europe"), "Norway": ("Oslo", "Europe"), "Sweden": ("Stockholm", "Europe"),
    "Finland": ("Helsinki", "Europe"), "Denmark": ("Copenhagen", "Europe"), "Belgium": ("Brussels", "Europe"),
    "Hungary": ("Budapest", "Europe"), "Switzerland": ("Bern", "Europe"), "Japan": ("Tokyo", "Asia"),
    "China": ("Beijing", "Asia"), "India": ("New Delhi", "Asia"), "South Korea": ("Seoul", "Asia"),
    "Thailand": ("Bangkok", "Asia"), "Vietnam": ("Hanoi", "Asia"), "Egypt": ("Cairo", "Africa"),
    "Kenya": ("Nairobi", "Africa"), "Morocco": ("Rabat", "Africa"), "Ghana": ("Accra", "Africa"),
    "Canada": ("Ottawa", "North America"), "the United States": ("Washington", "North America"),
    "Mexico": ("Mexico City", "North America"), "Cuba": ("Havana", "North America"),
    "Brazil": ("Brasilia", "South America"), "Argentina": ("Buenos Aires", "South America"),
    "Chile": ("Santiago", "South America"), "Peru": ("Lima", "South America"),
    "Australia": ("Canberra", "Oceania"), "New Zealand": ("Wellington", "Oceania"),
}
OTHER_COUNTRIES = """Mongolia Iceland Romania Bulgaria Serbia Croatia Estonia Latvia Lithuania Slovenia Slovakia
Ukraine Turkey Iran Iraq Nepal Pakistan Malaysia Indonesia Laos Cambodia Nigeria Ethiopia Uganda Tanzania Zambia
Senegal Mali Chad Niger Angola Bolivia Ecuador Uruguay Paraguay Venezuela Colombia Panama Jamaica Fiji Samoa
Albania Malta Cyprus Jordan Oman Yemen Qatar Rwanda Benin Togo Namibia Kazakhstan Georgia Armenia""".split()

FOODS = {  # name: (kind, taste, note)
    "apple": ("fruit", "sweet", "grows on a tree"), "banana": ("fruit", "sweet", "has a yellow skin"),
    "orange": ("fruit", "sweet and a little sour", "is full of juice"), "lemon": ("fruit", "sour", "is yellow"),
    "grape": ("fruit", "sweet", "grows in bunches"), "strawberry": ("fruit", "sweet", "is red with small seeds"),
    "cherry": ("fruit", "sweet", "has a stone inside"), "pear": ("fruit", "sweet", "is soft when it is ripe"),
    "peach": ("fruit", "sweet", "has a soft skin"), "mango": ("fruit", "sweet", "grows in warm places"),
    "plum": ("fruit", "sweet", "is purple"), "melon": ("fruit", "sweet", "is large and full of water"),
    "carrot": ("vegetable", "a little sweet", "is orange and grows in the ground"),
    "potato": ("vegetable", "mild", "grows under the ground"), "onion": ("vegetable", "sharp", "can make you cry"),
    "pea": ("vegetable", "a little sweet", "is small, round and green"),
    "cucumber": ("vegetable", "fresh and mild", "is long and green"),
    "cabbage": ("vegetable", "mild", "has many leaves"), "spinach": ("vegetable", "mild", "has dark green leaves"),
    "pepper": ("vegetable", "mild", "can be red, green or yellow"),
    "bread": ("food made from flour", "mild", "is baked in an oven"),
    "cheese": ("food made from milk", "salty", "can be soft or hard"),
    "rice": ("grain", "mild", "is eaten in many countries"), "honey": ("food made by bees", "very sweet", "is golden"),
    "chocolate": ("sweet food", "sweet", "is made from cocoa beans"),
    "soup": ("warm meal", "savoury", "is eaten with a spoon"), "salad": ("cold meal", "fresh", "is made of vegetables"),
    "pasta": ("food made from flour", "mild", "is boiled in water"), "cake": ("sweet food", "sweet", "is good for a birthday"),
    "egg": ("food laid by hens", "mild", "can be boiled or fried"),
}
NO_ARTICLE = {"bread", "cheese", "rice", "honey", "chocolate", "soup", "salad", "pasta", "cake", "spinach"}

RECIPES = {
    "tea": "First boil some water. Then pour it over a tea bag in a cup. Wait three minutes, take out the bag, and enjoy your tea.",
    "toast": "Put a slice of bread in the toaster. Wait until it is golden. Then spread some butter on it while it is warm.",
    "a sandwich": "Take two slices of bread. Put cheese and some salad between them. Cut the sandwich in half and eat it.",
    "soup": "Cut some vegetables into small pieces. Boil them in water with a little salt for twenty minutes. Then eat the soup while it is warm.",
    "a salad": "Wash some leaves, a tomato and a cucumber. Cut them into pieces and mix them in a bowl. Add a little oil and lemon.",
    "pasta": "Boil a pot of water with some salt. Cook the pasta for ten minutes. Then drain it and add your sauce.",
    "rice": "Wash the rice. Boil one cup of rice in two cups of water. Wait until the water is gone, and the rice is ready.",
    "a boiled egg": "Boil some water in a small pot. Put the egg in for eight minutes. Then cool it in cold water and take off the shell.",
    "lemonade": "Squeeze two lemons into a jug. Add cold water and some sugar. Stir it well and add ice.",
    "a fruit salad": "Cut an apple, a banana and some grapes into pieces. Mix them in a bowl. Add a little orange juice.",
}

OPPOSITES = [("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("day", "night"), ("light", "dark"),
             ("happy", "sad"), ("old", "young"), ("tall", "short"), ("wet", "dry"), ("full", "empty"), ("open", "closed"),
             ("hard", "soft"), ("loud", "quiet"), ("early", "late"), ("left", "right"), ("near", "far"), ("rich", "poor"),
             ("strong", "weak"), ("clean", "dirty"), ("heavy", "light"), ("good", "bad"), ("high", "low"), ("thick", "thin"),
             ("true", "false"), ("first", "last"), ("win", "lose"), ("push", "pull"), ("in", "out"), ("yes", "no"),
             ("black", "white"), ("sweet", "sour"), ("warm", "cool"), ("begin", "end"), ("give", "take")]

SEASONS = {  # name: (months, text, next)
    "spring": ("March, April and May", "flowers grow and the days get longer", "summer"),
    "summer": ("June, July and August", "the days are long and warm", "autumn"),
    "autumn": ("September, October and November", "the leaves turn red and fall", "winter"),
    "winter": ("December, January and February", "the days are short and cold", "spring"),
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)))

WEATHER = {
    "rain": ["Rain is water that falls from clouds. It makes plants grow.", "Rain is made of drops of water. The drops fall when a cloud is full."],
    "snow": ["Snow is frozen water that falls from clouds. It is white and cold.", "Snow is made of small ice crystals. It falls when the air is very cold."],
    "wind": ["Wind is moving air. It blows from places with high pressure to places with low pressure.", "Wind is air that moves. It can be a gentle breeze or a strong storm."],
    "fog": ["Fog is a cloud that is close to the ground. It makes it hard to see.", "Fog is made of tiny drops of water in the air near the ground."],
    "thunder": ["Thunder is the loud sound that lightning makes. It comes from air that gets hot very quickly.", "Thunder is the sound of lightning. You see the lightning first and hear the thunder later."],
    "lightning": ["Lightning is a big electric spark in the sky. It is very bright and very hot.", "Lightning is electricity that jumps between clouds and the ground."],
    "a rainbow": ["A rainbow is an arc of colours in the sky. It appears when the sun shines on drops of rain.", "A rainbow is made by sunlight in drops of rain. Its colours are red, orange, yellow, green, blue, indigo and violet."],
    "a cloud": ["A cloud is made of many tiny drops of water. When the drops get heavy, it rains.", "A cloud is a group of tiny water drops in the sky."],
    "a storm": ["A storm is strong wind with rain or snow. It is best to stay inside.", "A storm is bad weather with strong wind and heavy rain."],
    "ice": ["Ice is frozen water. Water freezes at zero degrees Celsius.", "Ice is water that is so cold that it is hard."],
    "hail": ["Hail is made of balls of ice that fall from clouds.", "Hail is frozen rain. The balls of ice can be small or large."],
    "frost": ["Frost is a thin layer of ice. It forms on cold nights.", "Frost is ice that forms on leaves and windows when the night is cold."],
    "sunshine": ["Sunshine is light and heat from the sun. It makes the day warm.", "Sunshine is the light of the sun. It helps plants grow."],
}
SKY = {
    "the sun": ["The sun is a star. It gives light and heat to the earth.", "The sun is the star at the centre of our solar system."],
    "the moon": ["The moon goes around the earth. It shines because it reflects the light of the sun.", "The moon is a ball of rock that goes around the earth in about a month."],
    "the earth": ["The earth is the planet we live on. It goes around the sun in one year.", "The earth is our planet. It has land, water and air."],
    "a star": ["A star is a very hot ball of gas that gives light. The sun is a star.", "A star is a huge ball of hot gas, far away in space."],
    "a planet": ["A planet is a large ball that goes around a star. The earth is a planet.", "A planet is a world that goes around a star, like the earth or Mars."],
    "Mars": ["Mars is a planet. It is called the red planet.", "Mars is the red planet. It is smaller than the earth."],
    "Jupiter": ["Jupiter is the largest planet in our solar system.", "Jupiter is a very large planet made of gas."],
    "Saturn": ["Saturn is a planet with bright rings.", "Saturn is a large planet. It has beautiful rings of ice and rock."],
    "the ocean": ["The ocean is a very large body of salt water. Many animals live in it.", "The ocean is the big salt water that covers most of the earth."],
    "a river": ["A river is water that flows over the land to the sea.", "A river is a long stream of fresh water. It flows to a lake or the sea."],
    "a mountain": ["A mountain is a very high part of the land.", "A mountain is land that rises high above the ground around it."],
    "a tree": ["A tree is a tall plant with a trunk, branches and leaves.", "A tree is a large plant. It has roots, a trunk and many leaves."],
    "a flower": ["A flower is the colourful part of a plant. Bees visit it for nectar.", "A flower is part of a plant. It often smells sweet and makes seeds."],
    "a forest": ["A forest is a large place with many trees. Many animals live there.", "A forest is land covered with trees."],
    "a desert": ["A desert is a very dry place. It gets very little rain.", "A desert is dry land with very few plants."],
    "water": ["Water is a clear liquid. All plants and animals need it to live.", "Water is a liquid that we drink. It can freeze to ice or turn into steam."],
}

YESNO = [("ice cold", "Yes, ice is cold."), ("fire hot", "Yes, fire is hot."), ("a whale a fish", "No, a whale is a mammal."),
         ("a bat a bird", "No, a bat is a mammal."), ("the sun a star", "Yes, the sun is a star."),
         ("a tomato blue", "No, a tomato is red."), ("grass green", "Yes, grass is green."),
         ("snow black", "No, snow is white."), ("a spider an insect", "No, a spider is an arachnid. It has eight legs."),
         ("the earth flat", "No, the earth is round."), ("the moon a star", "No, the moon is not a star. It goes around the earth."),
         ("water wet", "Yes, water is wet."), ("winter cold", "Yes, winter is usually cold."),
         ("summer cold", "No, summer is usually warm."), ("a penguin a bird", "Yes, a penguin is a bird, but it cannot fly."),
         ("a lemon sweet", "No, a lemon is sour."), ("honey sweet", "Yes, honey is very sweet."),
         ("Sunday a weekend day", "Yes, Sunday is part of the weekend."), ("Monday a weekend day", "No, Monday is a weekday."),
         ("Paris in France", "Yes, Paris is the capital of France."), ("Tokyo in Europe", "No, Tokyo is in Japan, which is in Asia."),
         ("a carrot a fruit", "No, a carrot is a vegetable."), ("an apple a fruit", "Yes, an apple is a fruit."),
         ("the sky green", "No, the sky is blue."), ("a mouse bigger than an elephant", "No, a mouse is much smaller than an elephant.")]

# subjects of stories besides the animals
STORY_THINGS = """robot dragon princess knight king queen wizard pirate ghost giant boy girl farmer baker sailor
painter teacher doctor gardener inventor teapot lamp boat train kite clock umbrella snowman cloud star moon tree
flower pumpkin toy doll lantern violin bicycle balloon book candle mirror key hat shoe spoon clown unicorn fairy
elf troll mermaid astronaut detective musician dancer puppet scarecrow windmill lighthouse castle river mountain
computer machine submarine rocket tractor truck bus car leaf seed raindrop snowflake shadow pencil button
blanket pillow cookie cupcake pancake potato carrot apple lemon pear dinosaur snail caterpillar ladybird badger
otter beaver mole seal walrus panda koala camel llama donkey peacock sparrow robin pigeon seagull""".split()

MORE_THINGS = """chair table sofa window door bridge road ladder hammer bucket rope needle scissors guitar piano drum trumpet
camera phone radio television fridge oven kettle bottle plate fork knife basket bag wallet ring necklace crown sword
shield tent raft canoe wagon tram plane helicopter satellite telescope magnet stone pebble rock hill island volcano
cactus mushroom rose tulip daisy oak fern moss worm beetle wasp moth lizard gecko octopus crab lobster jellyfish
starfish shrimp hamster gerbil ferret raccoon skunk moose bison buffalo rhino hippo leopard cheetah jaguar lynx
hyena chimpanzee gorilla lemur sloth platypus wombat ostrich emu stork heron pelican vulture hawk falcon goose turkey
nurse pilot cook judge postman plumber carpenter grandmother grandfather brother sister twin neighbour student
scientist soldier captain prince emperor witch vampire zombie monster ninja cowboy viking alien programmer
compiler token server chip transformer""".split()

UNKNOWN_ANIMALS = """platypus llama koala panda camel otter beaver walrus octopus crab lobster jellyfish hamster ferret raccoon
skunk moose bison rhino hippo leopard cheetah gorilla lemur sloth wombat ostrich emu stork pelican vulture hawk falcon
goose turkey lizard gecko beetle wasp moth worm snail badger mole seal dinosaur dragonfly mosquito cricket salamander
newt toad iguana chameleon armadillo anteater tapir yak alpaca mongoose meerkat jackal hyena coyote piranha eel tuna
squid clam starfish flamingo peacock pigeon seagull sparrow robin woodpecker puffin albatross narwhal manatee""".split()

UNKNOWN_FOODS = """pizza;sushi;lasagna;curry;paella;risotto;ramen;tacos;burritos;kebab;falafel;hummus;pancakes;waffles;croissants;
donuts;cheesecake;tiramisu;brownies;ice cream;yoghurt;butter;beer;wine;coffee;whisky;burgers;steak;roast chicken;fish
 and chips;fried rice;dumplings;spring rolls;noodles;stew;goulash;omelette;quiche;meatballs;tofu;kimchi;sauerkraut;
gravy;ketchup;mayonnaise;jam;marmalade;muffins;biscuits;apple pie;gingerbread;caviar;oysters;avocado toast""".replace("\n", "").split(";")

PLACES = ["a quiet forest", "a small village", "a green valley", "an old castle", "a house by the sea", "a sunny meadow",
          "a tall tower", "a little town", "a farm on a hill", "a warm cave", "an island far away", "a big city",
          "a garden full of flowers", "a cottage near the river", "a windy mountain", "a deep wood"]
ADJ = ["little", "young", "old", "brave", "shy", "curious", "clever", "kind", "lonely", "cheerful", "tiny", "gentle", "sleepy", "busy", "proud"]
OBJECTS = ["golden key", "silver bell", "red ball", "blue stone", "small lamp", "wooden box", "warm scarf", "shiny coin",
           "old map", "music box", "green hat", "magic seed", "paper boat", "glass star", "round pebble", "tin whistle"]
FRIENDS = ["owl", "mouse", "rabbit", "bear", "frog", "turtle", "squirrel", "duck", "hedgehog", "crow", "deer", "goat", "cat", "dog", "bee", "horse"]

# things the model knows nothing about: it should say so
UNKNOWN = """quantum mechanics;the stock market;the French Revolution;photosynthesis;the Roman Empire;football;basketball;
chess;opera;the theory of relativity;black holes;blockchain;bitcoin;the Second World War;Shakespeare;Beethoven;Mozart;
the pyramids;philosophy;Plato;economics;inflation;taxes;insurance;mortgages;the law;contracts;medicine;vaccines;
headaches;back pain;diabetes;surgery;dentists;yoga;running shoes;marathons;cycling;skiing;golf;tennis;cricket;
Python programming;JavaScript;SQL;regular expressions;Linux;Docker;Kubernetes;React;Rust;Haskell;HTML;web design;
the internet;email;printers;smartphones;video games;movies;television shows;novels;famous actors;pop music;jazz;
guitars;pianos;painting techniques;photography;sculpture;architecture;bridges;engines;cars;electric cars;airplanes;
rockets;satellites;submarines;nuclear power;solar panels;batteries;magnets;gravity;chemistry;acids;the periodic table;
DNA;evolution;dinosaurs;fossils;volcanoes;earthquakes;plate tectonics;the ozone layer;climate policy;recycling;
elections;presidents;parliament;the United Nations;history;geography of rivers;maps;languages;Latin grammar;Spanish;
translation;poetry by Goethe;mythology;Greek gods;religion;weddings;fashion;shoes;makeup;hairstyles;furniture;
gardening tools;plumbing;electricity bills;job interviews;resumes;salaries;startups;marketing;advertising;banks;
loans;credit cards;travel visas;hotels;flights;train tickets;restaurants;sushi;pizza dough;wine;coffee machines;
diets;calories;vitamins;sleep problems;dreams;psychology;memory loss;relationships;dating;parenting;schools;
university degrees;exams;calculus;algebra;geometry;prime numbers;statistics;probability;matrices in physics;logic;
cryptography;passwords;hackers;viruses;antivirus software;robots in factories;drones;3D printers;lasers;microscopes;
telescopes;galaxies;aliens;time travel;magic tricks;card games;poker;puzzles;origami;knitting;sewing;carpentry;
fishing;hunting;camping;hiking boots;knots;sailing;surfing;diving;horse racing;boxing;wrestling;the Olympics;
Napoleon;Einstein;Newton;Cleopatra;Julius Caesar;Leonardo da Vinci;Picasso;Van Gogh;Marie Curie;Gandhi;
the Great Wall;the Eiffel Tower;the moon landing;the Titanic;the Berlin Wall;the Cold War;castles in Scotland;
glaciers;coral reefs;mushrooms;bacteria;proteins;hormones;blood pressure;the heart;the brain;bones;lungs;kidneys;
accounting;real estate;supply chains;patents;copyright;privacy law;voting systems;monarchies;the Vikings;samurai;
the silk road;steam engines;telegraphs;typewriters;radio;cinema history;ballet;hip hop;drums;violins;orchestras;
diamonds;gold prices;oil;steel;concrete;glass making;pottery;perfume;soap making;candles;beekeeping;farming machines""".replace("\n", "").split(";")

FOREIGN = ["Wie spät ist es?", "Was ist das?", "¿Qué hora es?", "¿Cómo estás?", "Où est la gare ?", "Comment ça va ?", "Quel âge as-tu ?",
           "Come stai?", "Onde fica a praia?", "Você fala português?", "Как дела?", "Что это такое?", "你好吗?", "今天天气怎么样?",
           "これは何ですか?", "お元気ですか?", "안녕하세요?", "Hvad hedder du?", "Hur mår du?", "Mitä kuuluu?", "Jak się masz?", "Nasılsın?",
           "😀😀😀", "❤️?", "🤖", "¡Hola amigo!", "Ça va bien, merci.", "Übermorgen schneit es.", "नमस्ते", "مرحبا", "שלום", "Γειά σου"]

# first sentences that people like to try with a completion
OPENERS = ["The future of AI is {small models that run everywhere|fast engines and small models}. {They will help people with simple tasks|A good engine makes them cheap to serve}.",
           "The future of artificial intelligence is {small models that run everywhere|fast engines and small models}.",
           "San Francisco is a city in the United States. It is near the sea, and it is often foggy.", "San Francisco is a {|large }city by the sea. It has many hills.",
           "New York is a {|very }large city in the United States. It has many tall houses.", "London is the capital of England. It is a large city with a long river.",
           "The president of the United States is {elected every four years|a person I do not know, because I was only trained on a few topics}.",
           "The quick brown fox jumps over the lazy dog. The dog {wakes up and barks|does not mind and sleeps}.", "The weather today is {sunny and warm|cold and windy|mild, with some rain}. {It is a good day for a walk|I will stay inside and read a book}.",
           "The meaning of life is {to be kind and to learn|a hard question for a small model}.", "My favourite colour is {blue, like the sky|green, like the grass|red, like a strawberry}.",
           "It was a dark and {stormy|windy} night. The {wind|rain} was loud, and a {little|small} {fox|owl|mouse} was {looking for a warm place|afraid}. {At last it found a small house with a light in the window|Then it saw a light, and a kind bear opened the door}.",
           "A language model is a program that {predicts the next token|guesses what comes next}. It is trained on a lot of text.", "To make tea, boil some water and pour it over a tea bag. Wait three minutes.",
           "One, two, three, four, five, six, seven, eight, nine, ten.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.", "I think that {small models are fun|a good story needs a good friend|winter is too cold and summer is too short}.",
           "Hello{, world|, how are you|}! {I am glad to see you|It is a beautiful day}.", "Today is a {beautiful|rainy|cold} day. {The sun shines|The rain falls|The wind blows}, and {the birds sing|I am at home}.", "In the beginning there was {a small seed|an old tree|a quiet sea}. {Then the sun came up, and everything began to grow|It waited for a very long time}."]
