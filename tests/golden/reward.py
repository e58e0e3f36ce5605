"""A reward with a number for every text, so that even an untrained model's answers differ in it."""


def vowels(sample):
    return sum(letter in "aeiou" for letter in sample.text) / 10
