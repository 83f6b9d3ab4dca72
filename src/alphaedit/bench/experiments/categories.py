"""Categories of relations, as the paper's analysis by semantics groups CounterFact's (C.4).

Identifiers are Wikidata's.
"""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "language": ("P103", "P1412", "P364", "P407", "P37"),
    "geography": ("P17", "P30", "P36", "P131", "P276", "P190", "P159", "P495", "P740", "P47"),
    "people's places": ("P19", "P20", "P27", "P937", "P551"),
    "occupation": ("P106", "P101", "P108", "P39", "P463"),
    "arts and media": ("P136", "P449", "P264", "P1303", "P175", "P50", "P57"),
    "companies and products": ("P176", "P178", "P127", "P138", "P1056", "P749", "P112"),
    "religion": ("P140", "P361"),
    "sport": ("P413", "P641", "P54"),
}
_OF = {relation: name for name, relations in CATEGORIES.items() for relation in relations}


def category_of(relation: str) -> str:
    """The category of a relation; "other" for those of none."""
    return _OF.get(relation, "other")
