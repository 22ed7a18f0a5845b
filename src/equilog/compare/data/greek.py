"""The Greek New Testament, a row a word, as nine questions of grammar asked at once."""

from importlib.resources import files

import pandas as pd

from equilog.compare.data.bundled import package
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.targets import encode

COLUMNS = ("verse", "part of speech", "parse", "robinson", "text", "word", "norm", "lemma")
"""What the columns of a MorphGNT file are."""

ATTRIBUTES = {
    "part of speech": {
        "A-": "adjective", "C-": "conjunction", "D-": "adverb", "I-": "interjection", "N-": "noun",
        "P-": "preposition", "RA": "article", "RD": "demonstrative", "RI": "interrogative",
        "RP": "personal pronoun", "RR": "relative pronoun", "V-": "verb", "X-": "particle",
    },
    "person": {"1": "first", "2": "second", "3": "third"},
    "tense": {
        "P": "present", "I": "imperfect", "F": "future", "A": "aorist", "X": "perfect", "Y": "pluperfect",
    },
    "voice": {"A": "active", "M": "middle", "P": "passive"},
    "mood": {
        "I": "indicative", "D": "imperative", "S": "subjunctive", "O": "optative", "N": "infinitive",
        "P": "participle",
    },
    "case": {"N": "nominative", "G": "genitive", "D": "dative", "A": "accusative", "V": "vocative"},
    "number": {"S": "singular", "P": "plural"},
    "gender": {"M": "masculine", "F": "feminine", "N": "neuter"},
    "degree": {"C": "comparative", "S": "superlative"},
}  # fmt: skip
"""The codes of MorphGNT. The eight attributes after the first are the letters of the parse code in order, "-"
standing for an attribute that the word does not have."""

WORDS = 6000
"""Words taken, so that a comparison of many losses ends in minutes on two cores."""

FEWEST = 12
"""Words taken of every class, however rare, so that each can be in the training and the test rows."""


def greek() -> Dataset:
    """Words of the Greek New Testament and nine grammatical attributes of each, "none" being a class.

    The features are the word as it is written and its two neighbours. The lemma is not among them: with it the
    part of speech and the gender could be looked up.
    """
    words = all_words()
    shuffled = words.sample(frac=1, random_state=0)
    rank = pd.concat([shuffled.groupby(name).cumcount() for name in ATTRIBUTES], axis=1).min(axis=1)
    rare = shuffled[rank < FEWEST]
    chosen = pd.concat([rare, shuffled.drop(rare.index).head(WORDS - len(rare))]).sort_index()
    encoded, _ = encode(chosen[list(ATTRIBUTES)], "multiclass")
    return Dataset(
        name="greek",
        task="multiclass",
        features=chosen[["previous", "word", "next"]].reset_index(drop=True),
        target=encoded.values,
        target_names=encoded.target_names,
        class_names=encoded.class_names,
        notes=(
            f"{WORDS} of {len(words)} words drawn at random, at least {FEWEST} of every class; told from the word "
            "as written and the words before and after it, not from its lemma.",
        ),
    )


def all_words() -> pd.DataFrame:
    """Return all words, a row each, with their attributes and their neighbours."""
    source = package("pysblgnt", "greek")
    books = []
    for number in range(1, 28):
        # The package's own reader opens its files in the encoding of the system.
        lines = (files(source) / source.morphgnt_filename(number)).read_text(encoding="utf-8").splitlines()
        book = pd.DataFrame([line.split() for line in lines], columns=COLUMNS)
        books.append(book.assign(previous=book["word"].shift(), next=book["word"].shift(-1)))
    words = pd.concat(books, ignore_index=True)
    speech, *others = ATTRIBUTES
    words[speech] = words[speech].map(ATTRIBUTES[speech])
    for place, name in enumerate(others):
        words[name] = words["parse"].str[place].map({"-": "none", **ATTRIBUTES[name]})
    return words
