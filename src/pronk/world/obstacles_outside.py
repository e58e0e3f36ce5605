"""What stands in a hero's way out of doors: the way there is blocked, or the thing is out of reach."""

from typing import Final

from pronk.world.grammar import Obstacle
from pronk.world.words import CLIMBERS, SWIMMERS

ON_THE_WAY: Final = {
    "river": Obstacle(
        (
            "But a [wide|deep|wild] river was in the way[|, and there was no bridge].",
            "But soon {he} came to a river that was too [wide|deep|wild] to cross.",
            '"I cannot cross this [wide|deep|wild] river," said {name} [before long|a little later].',
        ),
        (
            "{helper} pushed a log over the [water|river], and they walked across.",
            "{helper} had a [small|little] boat, and they rowed to the other side.",
            "Together they laid stones in the [water|river] and hopped across.",
        ),
        SWIMMERS,
    ),
    "dark": Obstacle(
        (
            "But the way led through a dark forest, and {he} was afraid[| to go on].",
            "But it grew dark under the trees, and {name} was afraid[| to go on].",
            '"It is so dark in this forest," [said|whispered] {name} [before long|a little later].',
        ),
        (
            "{helper} lit a lantern, and they walked through the dark [forest|trees] side by side.",
            "{helper} asked the fireflies for help, and they lit up the [forest|trees].",
            "They sang a [loud|happy] song together until they were out of the dark [forest|trees].",
        ),
        frozenset(("owl",)),
    ),
    "storm": Obstacle(
        (
            "But a [big|wild] storm came, with [thunder and rain|wind and rain].",
            "But [black|dark] clouds came, and soon the rain poured down.",
            '"What a big storm," said {name}, who was wet all over.',
        ),
        (
            "{helper} led {name} to a dry cave, and they waited until the [rain|storm] was over.",
            "{helper} held a big leaf over {name}, and they walked on through the [rain|storm].",
            "They sat under {helper}'s roof until the [rain|storm] was over.",
        ),
    ),
    "fog": Obstacle(
        (
            "But a [thick|white] fog came down, and {he} could not see the path.",
            "But {he} took a wrong turn in the fog and lost the path.",
            '"I cannot see my own nose in this fog," said {name} [before long|a little later].',
        ),
        (
            "{helper} knew every stone and led {name} out of the fog.",
            "{helper} whistled, and {name} followed the sound out of the fog.",
            "{helper} blew and blew until the fog was gone and the path was clear.",
        ),
    ),
    "hill": Obstacle(
        (
            "But a steep hill stood in the way, and {he} [kept slipping|slipped] back down.",
            "But soon {he} came to a hill that was too [steep|high] to climb.",
            '"I cannot climb this [steep|high] hill," said {name} [before long|a little later].',
        ),
        (
            "{helper} let down a rope, and {name} climbed up the hill.",
            "{helper} knew an easy path around the [steep|high] hill.",
            "{helper} pushed from behind until {name} was at the top of the hill.",
        ),
        frozenset(("goat",)),
    ),
    "snow": Obstacle(
        (
            "But the snow was so [deep|high] that {he} could not walk.",
            "But [deep|thick] snow fell all day, and {he} got stuck.",
            '"The snow is too deep for my [short|cold] legs," said {name} [before long|a little later].',
        ),
        (
            "{helper} had a sled and pulled {name} over the snow.",
            "{helper} went ahead and made a path through the [deep|cold] snow.",
            "{helper} dug {name} out of the snow with a shovel.",
        ),
        frozenset(("penguin",)),
    ),
    "goose": Obstacle(
        (
            "But a [big|mean|grumpy] goose stood [at the gate|on the bridge] and would not let {him} pass.",
            '"Nobody gets past me!" said a [big|mean|grumpy] goose [at the gate|on the bridge].',
            "But soon {he} met a [big|mean|grumpy] goose that blocked the [road|way].",
        ),
        (
            "{helper} told a joke, and the goose laughed so hard that it let them pass.",
            "{helper} gave the goose some bread, and it stepped aside.",
            '"Please let us pass," said {helper}, and the goose stepped aside.',
        ),
    ),
    "mud": Obstacle(
        (
            "But {he} stepped into [deep|thick] mud and got stuck.",
            "But the road was full of [deep|thick] mud, and {name} sank in.",
            '"I am stuck in the mud," [said|cried] {name} [before long|a little later].',
        ),
        (
            "{helper} pulled and pulled until {name} popped out of the mud.",
            "{helper} held out a long [branch|stick] and pulled {name} from the mud.",
            "{helper} laid a board over the mud, and {name} crawled out.",
        ),
        frozenset(("pig",)),
    ),
}

OUT_OF_REACH: Final = {
    "tree": Obstacle(
        (
            "But the {object} was stuck [high up |]in a [tall|big] tree.",
            "But the wind blew the {object} to the top of a [tall|big] tree.",
        ),
        (
            "{helper} brought a ladder, and {name} climbed up the tree.",
            "{name} stood on {helper}'s back and reached the top of the tree.",
        ),
        CLIMBERS,
    ),
    "pond": Obstacle(
        (
            "But the {object} lay at the bottom of a [deep|cold] pond.",
            "But the {object} fell into a [deep|cold] pond and sank.",
        ),
        (
            "{helper} jumped into the pond and pulled it out.",
            "{helper} made a net, and they fished it out of the pond.",
        ),
        SWIMMERS,
    ),
    "hole": Obstacle(
        (
            "But the {object} lay at the bottom of a deep hole.",
            "But the {object} rolled away and fell into a deep hole.",
        ),
        (
            "{helper} let down a rope and pulled it out of the hole.",
            "{helper} held {name}'s feet while {he} reached down into the hole.",
        ),
    ),
    "rock": Obstacle(
        ("But the {object} was stuck under a [big|heavy] rock.", "But a [big|heavy] rock lay on top of the {object}."),
        ("They pushed together, and the rock rolled away.", "{helper} lifted the rock with a long [branch|stick]."),
        frozenset(("elephant",)),
    ),
    "thorns": Obstacle(
        (
            "But the {object} was deep in a bush full of thorns.",
            "But the {object} fell into a bush with sharp thorns.",
        ),
        ("{helper} held the thorns apart, and {name} reached in.", "{helper} cut the thorns off one by one."),
    ),
    "crow": Obstacle(
        (
            "But a [big|black] crow sat on the {object} and would not move.",
            "But a [big|black] crow came and took the {object} away.",
        ),
        (
            "{helper} gave the crow some berries, and it let go.",
            '"That does not belong to you," said {helper}, and the crow let go.',
        ),
    ),
}
