"""What the demo's assistant knows: the house rules of a library that we made up, so that answers can be checked."""

from typing import NamedTuple


class Passage(NamedTuple):
    """One rule of the library."""

    title: str
    text: str


PASSAGES = (
    Passage(
        "Opening hours",
        "The Lindenholm Library is open from Tuesday to Friday between 10:00 and 19:00, and on Saturday between 9:00 "
        "and 14:00. On Sunday and Monday it is closed.",
    ),
    Passage(
        "Reader's card",
        "A reader's card costs 15 euros a year. It is free of charge for students and for everybody under 18. Bring "
        "an identity card to get one.",
    ),
    Passage(
        "Borrowing",
        "With a reader's card you can borrow up to eight books at a time. Books are lent for three weeks, films and "
        "board games for one week.",
    ),
    Passage(
        "Renewals",
        "A loan can be renewed twice, at the desk, by telephone or online, unless another reader has reserved the "
        "same book.",
    ),
    Passage(
        "Late returns",
        "A late book costs 20 cents a day, and never more than 6 euros. Children under 14 pay nothing.",
    ),
    Passage(
        "Lost and damaged books",
        "Tell us at the desk when a book is lost or damaged. You pay the price of a new copy; no further fee is added.",
    ),
    Passage(
        "Reading room",
        "The reading room on the second floor has forty quiet seats. Drinks are allowed in bottles that close, food "
        "is not.",
    ),
    Passage(
        "Rare books",
        "Books printed before 1850 are kept in the vault and can be read in the reading room only. Ask for them two "
        "days ahead.",
    ),
    Passage(
        "Computers and printing",
        "Six computers on the ground floor can be used for an hour a day. A printed page costs 10 cents in black and "
        "30 cents in colour.",
    ),
    Passage(
        "Children's corner",
        "Every Wednesday at 16:00 somebody reads a story aloud in the children's corner. No card and no booking is "
        "needed.",
    ),
)
