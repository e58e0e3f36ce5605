"""What heroes want: for each want the phrasings that state it and the phrasings that tell how it came true."""

from typing import Final

from pronk.world.grammar import Want

_DAY: Final = "[One day,|One morning,|One afternoon,]"
_OPENLY: Final = "said {name}[| one day| one morning]"

JOURNEYS: Final = {
    "seek": Want(
        (
            f"{_DAY} {{name}} [set out|wanted] to find a {{object}}[| of {{his}} own| to keep].",
            f'"I [want to find|wish I had] a {{object}}," {_OPENLY}.',
            "{He} [needed|wanted] a {object}, so {he} set out to find one.",
            "All year long, {name} had dreamed of finding a {object}.",
        ),
        (
            "[At last,|And there,] [in the grass|under a leaf|behind a log], {name} found a {object}.",
            '"I found a {object}!" [cried|shouted] {name}.',
            "[Soon|At last] {he} found a {object} [in the grass|behind a log], and it was [lovely|perfect].",
        ),
        "object",
    ),
    "return": Want(
        (
            f"{_DAY} {{name}} found a {{object}} and wanted to [give it back to|find] its owner.",
            '"Look, someone lost this {object}, and I must give it back," said {name}.',
            f"{_DAY} {{he}} found a {{object}} that someone had lost, so {{he}} set out to give it back.",
        ),
        (
            "[At last|Soon] {name} found the owner and gave the {object} back.",
            "The owner of the {object} was [an old king|a little girl], who was so glad to have it back.",
            '"[That is my {object}|You found my {object}]!" said the [glad|happy] owner.',
        ),
        "object",
    ),
    "gift": Want(
        (
            f"{_DAY} {{name}} wanted to find a {{object}} for {{his}} mother.",
            f'"I will find a {{object}} for my mother\'s birthday," {_OPENLY}.',
            "It was {his} mother's birthday, so {name} set out to find a {object} as a gift.",
        ),
        (
            "[At last|Soon] {name} found a {object} and gave it to {his} mother.",
            "{His} mother loved the {object} and kissed {name} on the nose.",
            '"[What a lovely|This is the best] {object}!" said {his} mother.',
        ),
        "object",
    ),
    "sight": Want(
        (
            f"{_DAY} {{name}} set out to see the {{sight}}[| for the first time].",
            f'"I [want to see|have never seen] the {{sight}}," {_OPENLY}.',
            "{He} had never seen the {sight}, so {he} set out to find it.",
            "More than anything, {name} wanted to see the {sight}.",
        ),
        (
            "[At last|Soon] {name} saw the {sight}, and it was [beautiful|even better than a dream].",
            '"[Look, there is the {sight}|The {sight} is so beautiful]!" [cried|shouted] {name}.',
            "[At last|Soon] {he} stood before the {sight} [with wide eyes|and could not stop looking].",
        ),
        "sight",
    ),
    "home": Want(
        (
            f"{_DAY} {{name}} [ran after a butterfly|walked too far] and could not find the way home.",
            '"I am lost, and I want to go home," said {name}[| one day| one evening].',
            "Far from home one evening, {name} wanted to go back to {his} own bed.",
        ),
        (
            "[At last|Soon] {name} saw the light in {his} own window.",
            "[At last|Soon] {name} was home, and {his} mother hugged {him} at the door.",
            '"[I am home|There is my house]!" [cried|shouted] {name}.',
        ),
    ),
    "visit": Want(
        (
            f"{_DAY} {{name}} set out to visit {{his}} grandmother.",
            f'"I will visit Grandmother today," {_OPENLY}.',
            "{He} missed {his} grandmother, so {he} packed a bag and went to visit.",
        ),
        (
            "[At last|Soon] {his} grandmother [stood at the door|opened the door] and kissed {him}.",
            "[At last|Soon] {name} sat in Grandmother's kitchen and ate warm cookies.",
            '"[Come in|How you have grown], {name}!" said Grandmother.',
        ),
    ),
    "party": Want(
        (
            f"{_DAY} {{name}} was asked to a party [far away|across the valley] and set out at once.",
            '"There is a party tonight, and I want to go," said {name}.',
            "{He} put on {his} best clothes, for {he} wanted to go to a party.",
        ),
        (
            "{name} came to the party just in time for the [music|fun].",
            "[At last|Soon] {name} was at the party, and {he} danced [all night|until {his} feet hurt].",
            '"Welcome to the party, {name}!" [cried|shouted] [everyone|all the guests].',
        ),
    ),
    "soup": Want(
        (
            f"{_DAY} {{name}} wanted to bring [hot|warm] soup to a sick snail.",
            '"The old snail is sick, so I will bring some [hot|warm] soup," said {name}.',
            "{He} cooked soup for a sick snail and set out to bring it over.",
        ),
        (
            "The snail ate [the|all the] soup and felt better.",
            "[At last|Soon] {name} gave the soup to the snail, who [ate it all|smiled again].",
            '"[This soup is good|I feel better now]," said the snail.',
        ),
    ),
}

AT_HOME: Final = {
    "lost": Want(
        (
            f"{_DAY} {{name}} lost {{his}} [best|dear old] {{object}} and wanted it back.",
            '"[Oh no|Oh dear], my {object} is gone!" [said|cried] {name}, and {he} went out to look for it.',
            "{He} could not find {his} {object} at home, so {he} went out to look for it.",
        ),
        (
            "[At last|Soon|Now] {name} had {his} {object} back.",
            "[At last|Soon] {he} held {his} {object} close and smiled.",
            '"[My {object} is back|I have my {object} again]!" [cried|shouted] {name}.',
        ),
        "object",
    ),
    "reach": Want(
        (
            f"{_DAY} {{name}} found a [|lovely ]{{object}} and wanted to [take it home|play with it].",
            '"Look, I found a {object}, and I want to [take it home|keep it]!" said {name}.',
            f"{_DAY} {{he}} was playing outside when {{he}} found a {{object}}.",
        ),
        (
            "[At last|Now] {name} could take the {object} home.",
            "[At last|Soon] {name} [played with|held] the {object} and [could not stop smiling|jumped for joy].",
            '"[This is the best {object}|What a lovely {object}]!" [cried|shouted] {name}.',
        ),
        "object",
    ),
    "learn": Want(
        (
            f"{_DAY} {{name}} wanted to learn to {{skill}}.",
            f'"I want to learn to {{skill}}," {_OPENLY}.',
            "More than anything, {name} wanted to {skill} like the others.",
            "{He} saw the big ones {skill}, and {he} wanted to do it too.",
        ),
        (
            "[At last|Soon|By evening] {name} could {skill} [all by {himself}|very well|better than anyone].",
            '"[Look, I can {skill}|Now I can {skill}]!" [cried|shouted] {name}.',
            "[At last|Soon] {he} could {skill}, and everyone [clapped|cheered].",
        ),
        "skill",
    ),
    "race": Want(
        (
            f"{_DAY} {{name}} wanted to win the [big|great] race.",
            f'"I want to win the race," {_OPENLY}.',
            "More than anything, {name} wanted to win a race.",
        ),
        (
            "On the day of the race, {name} ran like the wind and won.",
            "[At last|Soon] {name} won the race and got a gold medal.",
            '"I won the race!" [cried|shouted] {name}.',
        ),
    ),
    "show": Want(
        (
            f"{_DAY} {{name}} wanted to be in the big show.",
            f'"I want to be in the show," {_OPENLY}.',
            "More than anything, {name} wanted to stand on a stage and be in a show.",
        ),
        (
            "That night {name} was the star of the show, and everyone clapped.",
            "[At last|Soon] {name} stood on the stage, and the show was a joy.",
            '"Well done, {name}!" everyone called after the show.',
        ),
    ),
    "build": Want(
        (
            f"{_DAY} {{name}} wanted to build a {{build}}.",
            f'"I [want to|will] build a {{build}} out of wood," {_OPENLY}.',
            "{He} [got|took] a hammer and began to build a {build}.",
        ),
        (
            "[By evening|At last] the {build} was ready.",
            '"[My {build} is ready|Look at my new {build}]!" [cried|shouted] {name}.',
            "[By evening|At last] {name} had built [a fine|the best] {build}.",
        ),
        "build",
    ),
    "bake": Want(
        (
            f"{_DAY} {{name}} wanted to [bake|make] a {{food}}.",
            f'"I want to [bake|make] a {{food}}," {_OPENLY}.',
            "{He} put on an apron and began to make a {food}.",
        ),
        (
            "[At last|Soon] the {food} was done, and it smelled [sweet|wonderful].",
            "[At last|Soon] {name} cut the {food} and gave everyone a piece.",
            '"[My {food} is done|This is the best {food} of all]!" [cried|shouted] {name}.',
        ),
        "food",
    ),
    "grow": Want(
        (
            f"{_DAY} {{name}} wanted to grow a {{plant}} in {{his}} garden.",
            f'"I want to grow a {{plant}}," {_OPENLY}.',
            "{He} put a seed in the ground and hoped for a {plant}.",
        ),
        (
            "[At last|In the end] a [big|fine] {plant} grew in {his} garden.",
            '"[Look at my {plant}|My {plant} has grown so big]!" [cried|shouted] {name}.',
            "[At last|In the end] {name} had the biggest {plant} in the land.",
        ),
        "plant",
    ),
    "friend": Want(
        (
            f"{_DAY} {{name}} wanted a friend to play with.",
            f'"I wish I had a friend," {_OPENLY}.',
            "More than anything, {name} wanted a friend.",
        ),
        (
            "[At last|Now] {name} had a friend to play with.",
            '"Now I have a friend!" [cried|shouted] {name}.',
            "[At last|Now] {he} was not alone any more, for {he} had a friend.",
        ),
    ),
    "sleep": Want(
        (
            "One [cold|long] night, {name} wanted to sleep.",
            '"I am so tired, and I want to sleep," said {name} one night.',
            "One night, {he} lay in bed and could not fall asleep.",
        ),
        (
            "[At last|Soon] {name} closed {his} eyes and fell asleep.",
            "[At last|Soon] {he} was [fast|sound] asleep under {his} blanket.",
            '"Good night," said {name}, and {he} slept until morning.',
        ),
    ),
    "rescue": Want(
        (
            f"{_DAY} {{name}} found a baby bird and wanted to bring it back to its nest.",
            '"This baby bird fell out of its nest, and I must save it," said {name}.',
            f"{_DAY} {{he}} saw a baby bird on the ground and wanted to save it.",
        ),
        (
            "[At last|Soon] the baby bird was safe in its nest.",
            "[At last|Soon] {name} put the baby bird into its nest, and it sang.",
            '"The baby bird is safe!" [cried|shouted] {name}.',
        ),
    ),
    "mend": Want(
        (
            f"{_DAY} {{name}} broke {{his}} mother's vase and wanted to [make it right|mend it].",
            '"I broke the vase, and I must make it right," said {name}.',
            "While {he} was playing catch, {he} broke a vase, and {he} was sorry.",
        ),
        (
            "{His} mother looked at the vase and was not angry at all.",
            "[At last|Soon] the vase stood on the shelf again, and {his} mother [smiled|was glad].",
            '"[I can still love this vase|A vase is only a vase]," said {his} mother and hugged {him}.',
        ),
    ),
}
