"""What stands in a hero's way at work, at home and at heart: skills, makings, fears and sorrows."""

from typing import Final

from pronk.world.grammar import Obstacle
from pronk.world.words import CLIMBERS

HARD_TO_LEARN: Final = {
    "scared": Obstacle(
        (
            "But {he} was so scared that {his} [legs|knees] shook.",
            '"I am too scared to try," [said|whispered] {name} [before long|a little later].',
        ),
        (
            '"Take a deep breath," said {helper}, and {name} was not scared any more.',
            "{helper} stayed close to {him}, and {name} was not scared any more.",
        ),
    ),
    "laughter": Obstacle(
        (
            "But the other animals [only|all] laughed at {him}.",
            '"You will never do it," the other animals said and laughed.',
        ),
        (
            "{helper} told the others to stop laughing.",
            '"Do not listen when they laugh," said {helper}, and {name} held {his} head high.',
        ),
    ),
    "weary": Obstacle(
        (
            "But it was hard work, and soon {he} wanted to give up.",
            '"This is too hard, and I give up," said {name} [before long|a little later].',
        ),
        (
            '"Rest a little, and then try again," said {helper}, and {name} did not give up.',
            "{helper} brought a cold drink, and {name} did not give up.",
        ),
    ),
    "teacher": Obstacle(
        (
            "But there was nobody to teach {him}.",
            '"Nobody can teach me," said {name} [before long|a little later].',
        ),
        (
            "{helper} became {his} teacher and showed {him} every step.",
            "{helper} showed {him} how to do it, step by step.",
        ),
    ),
    "mistakes": Obstacle(
        (
            "But {he} made one mistake after another.",
            '"I do it wrong every time," said {name} [before long|a little later].',
        ),
        (
            '"Do it slowly," said {helper}, and this time there were no mistakes.',
            "{helper} tried it with {him} until there were no more mistakes.",
        ),
    ),
    "slow": Obstacle(
        ("But {he} was the slowest of all.", '"My legs are much too slow," said {name} [before long|a little later].'),
        (
            "{helper} ran with {him} every morning until {he} was fast.",
            "{helper} taught {him} to take long steps, and soon {he} was fast.",
        ),
        frozenset(("horse", "deer")),
    ),
    "fall": Obstacle(
        ("But {he} fell and hurt {his} knee.", '"Ouch, I fell on my knee!" cried {name}.'),
        (
            "{helper} put a bandage on {his} knee and helped {him} up.",
            "{helper} washed {his} knee, and soon {he} was up again.",
        ),
    ),
    "forgot": Obstacle(
        (
            "But {he} forgot all the words of {his} song.",
            '"I forgot the words again," said {name} [before long|a little later].',
        ),
        (
            "{helper} whispered the words until {he} knew them by heart.",
            "{helper} wrote the words down on a big leaf.",
        ),
    ),
}

HARD_TO_MAKE: Final = {
    "wind": Obstacle(
        (
            "But the wind blew it down[| again and again].",
            '"The wind blows it down every time," said {name} [before long|a little later].',
        ),
        (
            "They tied it down with rope, and the wind could not move it.",
            "{helper} put [big|heavy] stones around it to stop the wind.",
        ),
    ),
    "heavy": Obstacle(
        (
            "But the wood was too heavy for {him}.",
            '"This wood is too heavy for me," said {name} [before long|a little later].',
        ),
        ("They lifted the heavy wood together.", "{helper} was strong and helped {him} with the heavy wood."),
        frozenset(("elephant",)),
    ),
    "nails": Obstacle(
        ("But there were not enough nails.", '"I have no more nails," said {name} [before long|a little later].'),
        ("{helper} had a box full of nails.", "{helper} went to the shop and came back with more nails."),
    ),
    "crooked": Obstacle(
        ("But it was crooked and fell apart.", '"It looks so crooked," said {name} [before long|a little later].'),
        (
            "{helper} held it straight while {name} worked.",
            "{helper} made it straight with a hammer.",
        ),
    ),
    "sugar": Obstacle(
        ("But there was no sugar in the kitchen.", '"I have no more sugar," said {name} [before long|a little later].'),
        (
            "{helper} ran home and came back with a bag of sugar.",
            "{helper} brought honey, which was even sweeter than sugar.",
        ),
    ),
    "burned": Obstacle(
        (
            "But the oven was too hot, and everything burned.",
            '"Everything burned and is black," said {name} [before long|a little later].',
        ),
        (
            "{helper} helped {him} and watched the hot oven.",
            "They tried again together, and this time nothing burned.",
        ),
    ),
    "recipe": Obstacle(
        (
            "But {he} could not read the recipe.",
            '"I cannot read this recipe," said {name} [before long|a little later].',
        ),
        ("{helper} read the recipe out loud.", "{helper} knew the recipe by heart and told {him} what to do."),
    ),
    "spilled": Obstacle(
        (
            "But {he} dropped the bowl, and milk ran over the floor.",
            '"All the milk is on the floor," said {name} [before long|a little later].',
        ),
        ("{helper} cleaned the floor and brought new milk.", "They cleaned up together, and {helper} got more milk."),
    ),
    "dry": Obstacle(
        (
            "But it did not rain for days, and the ground was dry.",
            '"The ground is so dry," said {name} [before long|a little later].',
        ),
        (
            "{helper} helped {him} bring water from the well every day.",
            "They gave the dry ground a big bucket of water every day.",
        ),
    ),
    "bugs": Obstacle(
        (
            "But bugs came and ate the [green|young] leaves.",
            '"The bugs eat every leaf," said {name} [before long|a little later].',
        ),
        (
            "{helper} asked the ladybugs for help, and they chased the bugs away.",
            "{helper} picked up the bugs one by one and took them away.",
        ),
    ),
    "weeds": Obstacle(
        (
            "But weeds grew all over the garden.",
            '"My garden is full of weeds," said {name} [before long|a little later].',
        ),
        ("They pulled out the weeds one by one.", "{helper} liked to eat weeds and ate them all."),
    ),
    "frost": Obstacle(
        (
            "But the nights were cold, and there was frost on the ground.",
            '"The frost will hurt my garden," said {name} [before long|a little later].',
        ),
        ("{helper} brought straw to keep out the frost.", "They put warm straw on the ground to keep out the frost."),
    ),
}

HARD_FOR_THE_HEART: Final = {
    "hello": Obstacle(
        (
            "But {he} did not dare to say hello to anyone.",
            '"I do not dare to say hello," [said|whispered] {name} [before long|a little later].',
        ),
        (
            "{helper} said hello first, and {name} said hello back.",
            '"Hello is a short word," said {helper}, and {name} tried it.',
        ),
    ),
    "busy": Obstacle(
        (
            "But everyone was busy and had no time for {him}.",
            '"Everyone is too busy to play," said {name} [before long|a little later].',
        ),
        (
            "{helper} was not too busy and sat down beside {him}.",
            "{helper} was never too busy to play.",
        ),
    ),
    "newcomer": Obstacle(
        (
            "But {he} was new in town and knew nobody.",
            '"I am new here, and nobody knows me," said {name} [before long|a little later].',
        ),
        (
            "{helper} showed {him} the town and told everyone {his} name.",
            "{helper} took {him} from door to door until everyone knew {him}.",
        ),
    ),
    "game": Obstacle(
        ("But the others did not let {him} play their game.", '"You cannot play our game," the others told {him}.'),
        ("{helper} made up a new game for two.", "{helper} left the others and taught {him} a better game."),
    ),
    "shadows": Obstacle(
        (
            "But shadows moved on the wall, and {he} was afraid.",
            '"I see a monster in the shadows," [said|whispered] {name} [before long|a little later].',
        ),
        (
            "{helper} lit a candle, and the shadows went away.",
            "{helper} made funny shadows on the wall, and {name} laughed.",
        ),
    ),
    "noise": Obstacle(
        ("But outside the thunder was so loud.", '"The thunder is so loud," said {name} [before long|a little later].'),
        (
            "{helper} sang softly until {name} did not hear the thunder.",
            "They sang a happy song until the thunder was far away.",
        ),
    ),
    "nightmare": Obstacle(
        (
            "But {he} woke up from a bad dream.",
            '"I had a bad dream," [said|whispered] {name} [before long|a little later].',
        ),
        (
            "{helper} told {him} a good dream to chase the bad dream away.",
            "{helper} sat by {his} bed so that no bad dream could come.",
        ),
    ),
    "cold": Obstacle(
        (
            "But the room was cold, and {his} feet were like ice.",
            '"My feet are as cold as ice," said {name} [before long|a little later].',
        ),
        (
            "{helper} made a fire, and soon {his} feet were warm.",
            "{helper} gave {him} thick socks for {his} cold feet.",
        ),
    ),
    "nest": Obstacle(
        ("But the nest was high up in a tree.", '"I cannot reach the nest," said {name} [before long|a little later].'),
        (
            "{helper} brought a ladder, and they climbed up to the nest.",
            "{name} climbed on {helper}'s back and reached the nest.",
        ),
        CLIMBERS,
    ),
    "hawk": Obstacle(
        (
            "But a hungry hawk flew around above them.",
            '"I see a hungry hawk in the sky," [said|whispered] {name} [before long|a little later].',
        ),
        ("{helper} made so much noise that the hawk flew away.", "{helper} hid them from the hawk under a big leaf."),
    ),
    "weak": Obstacle(
        (
            "But the little bird was cold and weak.",
            '"The poor little bird is so weak," said {name} [before long|a little later].',
        ),
        (
            "{helper} gave it water and seeds until it was strong again.",
            "They kept it warm in a box until it was strong again.",
        ),
    ),
    "truth": Obstacle(
        (
            "But {he} was afraid to tell the truth.",
            '"I am afraid to tell the truth," [said|whispered] {name} [before long|a little later].',
        ),
        (
            '"The truth is always best," said {helper}, and {name} told it.',
            "{helper} went along with {him}, and {name} told the truth.",
        ),
    ),
    "pieces": Obstacle(
        (
            "But there were a hundred pieces on the floor.",
            '"There are so many pieces," said {name} [before long|a little later].',
        ),
        ("{helper} picked up the pieces and fit them together.", "They put the pieces together one by one."),
    ),
    "glue": Obstacle(
        (
            "But there was no glue in the house.",
            '"I need glue, but I have none," said {name} [before long|a little later].',
        ),
        ("{helper} had a pot of strong glue.", "{helper} made some glue out of flour and water."),
    ),
}
