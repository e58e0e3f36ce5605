"""Phrasings of the beats that every story shares: opening, feeling, meeting the helper, thanks and ending.

A phrasing is one sentence. [a|b] is a free choice, which may nest; {name}, {kind}, {he} … are slots that hold through
the whole story. Pronoun slots ({he}, {him}, {his}, {himself}) always mean the hero.
"""

from typing import Final

_PLACE: Final = (
    "[in a green forest|on a small farm|in a cosy house|in a little village|under an old oak tree|on a windy hill"
    "|in a sunny meadow|at the edge of the woods|beside a blue lake|in a busy town|in a wide valley|near a red barn]"
)

OPENINGS: Final = (
    "[Once upon a time,|Long ago,|Once,] there [was|lived] a {trait} [|little |young ]{kind} [named|called] {name}.",
    "[Once upon a time,|Long ago,|Once,] a {trait} {kind} [named|called] {name} lived " + _PLACE + ".",
    "There [was once|once was] a {trait} [|little ]{kind} [named|called] {name}.",
    "{name} was a {trait} [|little |young ]{kind} who lived " + _PLACE + ".",
    "Everyone in the [forest|village|valley] knew {name}, the {trait} [|little ]{kind}.",
    "This is the story of {name}, a {trait} [|little |young ]{kind}.",
)

FEELINGS: Final = (
    "{name} [sat down|stood still] and [cried|sighed].",
    "{He} felt [sad|small|helpless] and did not know what to do.",
    '"[Oh no|Oh dear], what can I do[ now|]?" [said|cried|asked] {name}.',
    "A [big|warm|little] tear rolled down {his} nose.",
    "{name} thought and thought, but nothing [helped|came to mind].",
    "The [poor|little] {kind} [sighed|shook {his} head|hung {his} head].",
    "{He} tried [and tried|once more|again and again], but it was no use.",
)

MEETINGS: Final = (
    "[Then|Just then,|Soon] {helper} the {helper_kind} came [by|along] and said, "
    '"[I can help you|I will help you|Let me help you|Do not worry|We can do it together]."',
    '"[What is wrong|Why are you so sad|May I help you|Do you need help][|, {name}]?" asked '
    "[{helper} the {helper_kind}|a [kind|wise|friendly] {helper_kind} named {helper}].",
    '"[I can help you|I will help you|Let me help you|Do not worry][|, {name}]," said '
    "[{helper} the {helper_kind}|a [kind|wise|friendly] {helper_kind} named {helper}].",
    "[Luckily,|Then|Just then,] {name} met {helper}, a [kind|wise|friendly] {helper_kind}[| who wanted to help].",
    "{name} called for help, and {helper} the {helper_kind} came [running|at once].",
    "[Luckily,|Then|Just then,] a [kind|wise|friendly] {helper_kind} named {helper} "
    "[heard {him} and came to help|came by|saw {him} and stopped].",
)

THANKS: Final = (
    '"[Thank you|Thank you so much|You are so kind|You are a true friend], {helper}," said {name}.',
    "{name} [thanked {helper} with all {his} heart|gave {helper} a big hug].",
    '"I could [never|not] do that without you," said {name}[| to {helper}].',
    '"[That was a good idea|How clever you are|Now all will be well]," said {name} with a [smile|laugh].',
)

ENDINGS: Final = (
    "From that day on, {name} and {helper} were [best|good|close] friends.",
    "{name} [never forgot|always remembered] {helper} and [that day|that kind help].",
    "And {name} learned that [friends make hard things easy|it is good to ask for help|a kind friend is a treasure"
    "|two can do more than one|nobody has to be alone].",
    "{name} and {helper} lived happily ever after.",
    "{name} was the happiest {kind} in the [whole world|land|valley].",
    "And the [little|good] {kind} was happy[| ever after].",
    "And so {name} [and {helper} became friends|found a true friend in {helper}].",
)

# Endings for heroes who are not asleep by then.
WAKEFUL_ENDINGS: Final = (
    "{name} went to bed with a smile that night[|, and {he} dreamed of {helper}].",
    '"What a [fine|wonderful|lovely] day," said {name}, and {helper} [nodded|smiled|laughed].',
    "{name} and {helper} [laughed|danced|sang|played] until the [stars came out|sun went down].",
    '"Will you be my friend?" asked {name}, and {helper} said yes.',
)
