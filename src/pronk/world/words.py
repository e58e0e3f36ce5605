"""The word tables of the story world: names with their pronouns, kinds, traits and the things that stories turn on.

Every word stands in one table only, so that a word in a story says by itself which table it came from.
"""

from typing import Final

HIS_NAMES: Final = ("Tom", "Ben", "Max", "Sam", "Leo", "Tim", "Jack", "Finn", "Toby", "Milo")
HER_NAMES: Final = ("Lily", "Mia", "Anna", "Lucy", "Ruby", "Ella", "Zoe", "Daisy", "Molly", "Amy")
NAMES: Final = HIS_NAMES + HER_NAMES
# Helpers have names of their own, so that a name says whether it is the hero's.
HIS_HELPERS: Final = ("Hugo", "Oscar", "Felix", "Bruno", "Otto", "Henry", "Arthur", "George")
HER_HELPERS: Final = ("Rosie", "Emma", "Clara", "Nora", "Ivy", "Hazel", "Alice", "Martha")
HELPERS: Final = HIS_HELPERS + HER_HELPERS

# What each pronoun slot of a phrasing says of a he and of a she.
HE: Final = {"he": "he", "him": "him", "his": "his", "himself": "himself", "He": "He", "His": "His"}
SHE: Final = {"he": "she", "him": "her", "his": "her", "himself": "herself", "He": "She", "His": "Her"}
PRONOUNS: Final = {**dict.fromkeys(HIS_NAMES + HIS_HELPERS, HE), **dict.fromkeys(HER_NAMES + HER_HELPERS, SHE)}

KINDS: Final = (
    *("cat", "dog", "frog", "fox", "bear", "mouse", "duck", "rabbit", "pig", "owl", "horse", "sheep"),
    *("goat", "lion", "monkey", "turtle", "squirrel", "hedgehog", "penguin", "elephant", "otter", "badger"),
    *("panda", "deer"),
)
TRAITS: Final = (
    *("brave", "shy", "clever", "gentle", "silly", "curious", "cheerful", "quiet", "lazy", "hungry"),
    *("sleepy", "proud", "tiny", "funny", "lonely", "careful", "playful", "polite"),
)
OBJECTS: Final = (
    *("key", "ball", "hat", "book", "bell", "drum", "ring", "shell", "cup", "doll"),
    *("map", "crown", "basket", "umbrella", "apple", "spoon", "feather", "kite"),
    *("coin", "mirror"),
)
SKILLS: Final = ("swim", "sing", "dance", "skate", "paint", "read")
SIGHTS: Final = ("sea", "waterfall", "castle", "lighthouse", "circus", "windmill")
BUILDS: Final = ("tower", "raft", "tent", "cart", "hut", "wagon")
FOODS: Final = ("cake", "pie", "pudding", "pancake", "pizza")
PLANTS: Final = ("pumpkin", "sunflower", "carrot", "rose", "melon")

# The table behind each slot that can be filled in more than one way (pronouns follow from the name).
SLOTS: Final = {
    **{"name": NAMES, "kind": KINDS, "trait": TRAITS, "helper": HELPERS, "helper_kind": KINDS, "object": OBJECTS},
    **{"skill": SKILLS, "sight": SIGHTS, "build": BUILDS, "food": FOODS, "plant": PLANTS},
}
# Slots that say what the story turns on; a story has at most one of them.
THINGS: Final = ("object", "skill", "sight", "build", "food", "plant")

SWIMMERS: Final = frozenset(("duck", "frog", "otter", "turtle", "penguin"))
CLIMBERS: Final = frozenset(("owl", "squirrel", "monkey", "cat", "panda"))
