"""VQA's accuracy of an answer (Antol et al. 2015), and what it takes for the same answer.

Rules and words are those of the evaluation that VQA's authors publish (GT-Vision-Lab/VQA,
vqaEval.py of v2.0). It leaves people's answers, which its data set has in that form already, mostly
as they are; here they are brought into it, too, so that other data may say "Two." for 2.
"""

import re
from collections.abc import Sequence

_PEOPLE = 10  # that answer a question of VQA's
_AGREEING = 3  # of them are full marks

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COUNTED = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED.split())} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
    who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
# `dont`, and of two apostrophes either alone: `couldnt've`, `couldn'tve`.
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
}


def vqa_score(said: str, answers: Sequence[str]) -> float:
    """The accuracy of an answer, 0 to 1.

    Of ten people's answers, each nine in turn: how many agree, three being full marks. With fewer
    than ten it is whether anybody said so.
    """
    given = [plain_answer(answer) for answer in answers]
    own = plain_answer(said)
    if len(given) < _PEOPLE:
        return float(own in given)
    agreeing = [given.count(own) - (other == own) for other in given]
    return sum(min(1.0, count / _AGREEING) for count in agreeing) / len(given)


def plain_answer(text: str) -> str:
    """The words that are compared: lower case, numbers as digits, without articles.

    Punctuation beside a blank goes, else it becomes one, or goes, too, in a text with a number such
    as 1,000; a full stop stays before a digit, and `&`, `:`, `$`, `%` always do.
    """
    flat = " ".join(text.split())
    has_thousands = re.search(r"\d,\d", flat) is not None
    plain = flat
    for mark in _MARKS:
        goes = has_thousands or f"{mark} " in flat or f" {mark}" in flat
        plain = plain.replace(mark, "" if goes else " ")
    words = re.sub(r"\.(?!\d)", "", plain).lower().split()
    kept = [_NUMBERS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(_APOSTROPHES.get(word, word) for word in kept)
