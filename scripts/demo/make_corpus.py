# SPDX-License-Identifier: MIT
"""A synthetic bilingual corpus, the same for everybody: lexicon, reordering and agreement.

    python scripts/demo/make_corpus.py FOLDER

Source sentences are noun phrase, verb, noun phrase, adverb. In the target the verb goes to the end,
adjectives follow their noun, determiner and adjective take the ending of the noun's gender and
number, and the verb takes the ending of its subject: a word is translated right only if words far
from it are understood.
"""

import random
import sys
from pathlib import Path

SIZES = {"train": 20000, "valid": 300, "test": 300}
NOUNS, ADJECTIVES, VERBS, ADVERBS = 60, 30, 30, 15
GENDERS = "mfn"


def noun_phrase(rng: random.Random) -> tuple[list[str], list[str], str]:
    """A noun phrase in both languages, and its agreement: gender and number."""
    noun, plural = rng.randrange(NOUNS), rng.random() < 0.5
    agreement = GENDERS[noun % len(GENDERS)] + ("p" if plural else "s")
    determiner = rng.choice(("the", "some", "this"))
    adjectives = [rng.randrange(ADJECTIVES) for _ in range(rng.randrange(3))]
    source = [
        determiner,
        *(f"adj{a}" for a in adjectives),
        f"noun{noun}" + ("+s" if plural else ""),
    ]
    target = [f"{determiner.upper()}-{agreement}", f"NOUN{noun}"]
    target += [f"ADJ{a}-{agreement}" for a in reversed(adjectives)]
    return source, target, agreement


def sentence(rng: random.Random) -> tuple[str, str]:
    """One sentence pair."""
    subject, subject_target, agreement = noun_phrase(rng)
    thing, thing_target, _ = noun_phrase(rng)
    verb, adverb = rng.randrange(VERBS), rng.randrange(ADVERBS)
    source = [*subject, f"verb{verb}", *thing, f"adv{adverb}"]
    target = [f"ADV{adverb}", *subject_target, *thing_target, f"VERB{verb}-{agreement[1]}"]
    return " ".join(source), " ".join(target)


def main(folder: Path) -> None:
    """Write train, valid and test as .src and .tgt."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    for split, size in SIZES.items():
        pairs = [sentence(rng) for _ in range(size)]
        for side, ending in enumerate(("src", "tgt")):
            (folder / f"{split}.{ending}").write_text(
                "".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8"
            )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
