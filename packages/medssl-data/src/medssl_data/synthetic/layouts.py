"""Synthetic stand-ins in the exact layout of each data set: names, tables, views, patients.

Plans are rows of text; nothing is drawn here. `stand_ins` draws and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_data.catalog import dataset_card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["LAYOUTS", "Layout", "Plan", "Scene"]

Kind = Literal["frontal", "lateral", "left", "right", "tissue", "thorax", "deep", "dicom"]


@dataclass(frozen=True)
class Scene:
    """One picture to be drawn.

    Args:
        path: File under the data set's folder; its suffix decides the format.
        kind: What is drawn.
        level: Strength of the class signal, 0 to 1.
        patient: Number of the patient; frontal and lateral views share it.
    """

    path: str
    kind: Kind
    level: float
    patient: int


@dataclass(frozen=True)
class Plan:
    """A tree to be written.

    Args:
        tables: Path -> text.
        scenes: The pictures.
        batches: Path -> labels of CIFAR records to draw, with their number of leading bytes.
    """

    tables: dict[str, str]
    scenes: list[Scene] = field(default_factory=list)
    batches: dict[str, tuple[list[int], int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How one data set is stood in for.

    Args:
        plan: Makes a plan of so many rows with this generator.
        small: Rows of `--size small`.
        full: Rows of `--size full`: the owner's own number.
        archives: Archives of records that the owner offers, where there are several.
    """

    plan: Callable[[int, np.random.Generator], Plan]
    small: int
    full: int
    archives: tuple[str, ...] = ()


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def _visits(rows: int, generator: np.random.Generator, most: int) -> Iterator[tuple[int, int]]:
    """Yield patients and the number of images of each, until there are `rows` images."""
    patient = 0
    while rows > 0:
        patient += 1
        images = min(int(generator.integers(1, most + 1)), rows)
        rows -= images
        yield patient, images


_BACH = (("Normal", "n"), ("Benign", "b"), ("InSitu", "is"), ("Invasive", "iv"))


def _bach(rows: int, generator: np.random.Generator) -> Plan:
    del generator
    top = "ICIAR2018_BACH_Challenge/Photos"
    names = [
        (f"{short}{number + 1:03d}.tif", word, label / 3)
        for label, (word, short) in enumerate(_BACH)
        for number in range(rows // 4)
    ]
    table = _lines(*(f"{name},{word}" for name, word, _ in names))
    scenes = [
        Scene(f"{top}/{word}/{name}", "tissue", level, index)
        for index, (name, word, level) in enumerate(names)
    ]
    return Plan({f"{top}/microscopy_ground_truth.csv": table}, scenes)


_STUDIED = (0, 1, 2, 3, 4, 5, 7)
_FINDING_SHARES = [0.12 if index in _STUDIED else 0.16 / 7 for index in range(14)]
"""The study's seven are drawn more often, so that small stand-ins have enough of each."""

_CHESTX_HEAD = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def _chestx(rows: int, generator: np.random.Generator) -> Plan:
    findings = dataset_card("chestx").findings[1:]  # the first is "No Finding"
    lines, scenes, lists = [_CHESTX_HEAD], [], (list[str](), list[str]())
    for patient, images in _visits(rows, generator, 6):
        chosen = lists[int(generator.random() < 0.23)]
        for follow_up in range(images):
            name = f"{patient:08d}_{follow_up:03d}.png"
            number = int(generator.choice(3, p=[0.3, 0.6, 0.1]))
            found = generator.choice(14, number, replace=False, p=_FINDING_SHARES).tolist()
            labels = "|".join(findings[index] for index in sorted(found)) or "No Finding"
            view = "AP" if generator.random() < 0.4 else "PA"
            lines.append(
                f"{name},{labels},{follow_up},{patient},058,M,{view},2682,2749,0.143,0.143,"
            )
            chosen.append(name)
            level = (min(found) + 1) / 14 if found else 0.0
            scenes.append(Scene(f"images/{name}", "frontal", level, patient))
    tables = {
        "Data_Entry_2017.csv": _lines(*lines),
        "train_val_list.txt": _lines(*lists[0]),
        "test_list.txt": _lines(*lists[1]),
    }
    return Plan(tables, scenes)


_CHEXPERT_HEAD = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def _chexpert(rows: int, generator: np.random.Generator) -> Plan:
    lines, scenes = [_CHEXPERT_HEAD], list[Scene]()
    for patient, images in _visits(rows, generator, 7):
        written, study = 0, 0
        while written < images:
            study += 1
            cells, level = _effusion(generator)
            views = ["frontal", "lateral"][: min(int(generator.integers(1, 3)), images - written)]
            for number, view in enumerate(views, start=1):
                path = (
                    f"CheXpert-v1.0-small/train/patient{patient:05d}/study{study}/"
                    f"view{number}_{view}.jpg"
                )
                side = "AP" if view == "frontal" else ""
                lines.append(f"{path},Female,61,{view.title()},{side},{cells}")
                kind: Kind = "frontal" if view == "frontal" else "lateral"
                scenes.append(Scene(path, kind, level, patient))
            written += len(views)
    valid = [_CHEXPERT_HEAD]
    for patient in range(64541, 64541 + 10):
        cells, level = _effusion(generator, certain=True)
        path = f"CheXpert-v1.0-small/valid/patient{patient}/study1/view1_frontal.jpg"
        valid.append(f"{path},Male,73,Frontal,AP,{cells}")
        scenes.append(Scene(path, "frontal", level, patient))
    return Plan({"train.csv": _lines(*lines), "valid.csv": _lines(*valid)}, scenes)


def _effusion(generator: np.random.Generator, *, certain: bool = False) -> tuple[str, float]:
    """Draw fourteen cells and the strength of the picture; shares as in the real table."""
    shares = [0.386, 0.0, 0.158, 0.456] if certain else [0.386, 0.052, 0.158, 0.404]
    value = str(generator.choice(["1.0", "-1.0", "0.0", ""], p=shares))
    drawn = {"1.0": 1.0, "-1.0": float(generator.integers(0, 2))}.get(value, 0.0)
    others = generator.choice(
        ["1.0", "-1.0", "0.0", ""], size=14, p=[0.15, 0.05, 0.1, 0.7]
    ).tolist()
    others[10] = value
    return ",".join(map(str, others)), drawn


def _eyepacs(rows: int, generator: np.random.Generator) -> Plan:
    trained = 2 * round(rows * 35126 / 88702 / 2)
    tables, scenes, start = {}, [], 1
    for name, number in (("train", trained), ("test", rows - trained)):
        usage = ",Usage" if name == "test" else ""
        lines = [f"image,level{usage}"]
        for patient in range(start, start + number // 2):
            level = int(generator.choice(5, p=[0.4, 0.15, 0.2, 0.12, 0.13]))
            other = level if generator.random() < 0.85 else int(generator.integers(0, 5))
            for side, grade in (("left", level), ("right", other)):
                end = f",{'Private' if patient % 5 else 'Public'}" if usage else ""
                lines.append(f"{patient}_{side},{grade}{end}")
                kind: Kind = "left" if side == "left" else "right"
                scenes.append(Scene(f"{name}/{patient}_{side}.jpeg", kind, grade / 4, patient))
        tables[f"{name}Labels.csv"] = _lines(*lines)
        start += number // 2
    return Plan(tables, scenes)


def _amd(rows: int, generator: np.random.Generator) -> Plan:
    del generator
    ill = max(1, round(rows * 89 / 400))
    named = [(f"A{number + 1:04d}", 1, "AMD") for number in range(ill)]
    named += [(f"N{number + 1:04d}", 0, "Non-AMD") for number in range(rows - ill)]
    table = _lines("image,label", *(f"{name},{label}" for name, label, _ in named))
    scenes = [
        Scene(f"Training400/{folder}/{name}.jpg", "left", float(label), index)
        for index, (name, label, folder) in enumerate(named)
    ]
    return Plan({"amd_labels.csv": table}, scenes)


def _pm(rows: int, generator: np.random.Generator) -> Plan:
    top = "PALM-Training400"
    counts = [round(rows * 161 / 400), max(1, round(rows * 26 / 400))]
    counts.append(rows - sum(counts))
    lines, scenes = ["ID,imgName,Fovea_X,Fovea_Y,Label"], []
    for label, (initial, count) in enumerate(zip("NHP", counts, strict=True)):
        for number in range(count):
            name = f"{initial}{number + 1:04d}.jpg"
            x, y = generator.uniform(900, 1200, 2)
            lines.append(f"{len(lines)},{name},{x:.2f},{y:.2f},{label}")
            scenes.append(Scene(f"{top}/{top}/{name}", "left", label / 2, len(lines)))
    return Plan({f"{top}/fovea_location_csv.csv": _lines(*lines)}, scenes)


def _tuberculosis(
    table: str, folder: str, prefix: str, ill_share: float
) -> Callable[[int, np.random.Generator], Plan]:
    def plan(rows: int, generator: np.random.Generator) -> Plan:
        ill = round(rows * ill_share)
        lines, scenes = ["study_id,sex,age,findings"], []
        for number in range(rows):
            label = int(number >= rows - ill)
            name = f"{prefix}_{number + 1:04d}_{label}.png"
            words = '"PTB in the right upper field, fibrosis"' if label else "normal"
            sex = "Male" if generator.random() < 0.6 else "Female"
            lines.append(f"{name},{sex},{int(generator.integers(18, 80))},{words}")
            scenes.append(Scene(f"{folder}/CXR_png/{name}", "frontal", float(label), number))
        return Plan({table: _lines(*lines)}, scenes)

    return plan


def _stoic(rows: int, generator: np.random.Generator) -> Plan:
    lines, scenes = ["PatientID,probCOVID,probSevere"], []
    for patient in np.sort(generator.permutation(max(10_000, rows))[:rows]).tolist():
        ill = int(generator.random() < 0.5)
        lines.append(f"{patient},{ill},{int(ill and generator.random() < 0.25)}")
        scenes.append(Scene(f"data/mha/{patient}.mha", "thorax", float(ill), patient))
    return Plan({"metadata/reference.csv": _lines(*lines)}, scenes)


def _cifar10(rows: int, generator: np.random.Generator) -> Plan:
    files = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
    files.append("cifar-10-batches-bin/test_batch.bin")
    labels = generator.permutation(np.arange(rows) % 10).tolist()
    each = rows // len(files)
    batches = {name: (labels[i * each : (i + 1) * each], 1) for i, name in enumerate(files)}
    return Plan({}, [], batches)


def _cifar100(rows: int, generator: np.random.Generator) -> Plan:
    labels = generator.permutation(np.arange(rows) % 100).tolist()
    cut = rows * 5 // 6
    batches = {"train": labels[:cut], "test": labels[cut:]}
    return Plan({}, [], {f"cifar-100-binary/{n}.bin": (found, 2) for n, found in batches.items()})


def _hospital(rows: int, generator: np.random.Generator) -> Plan:
    """Plan 16-bit PNG and DICOM files with a table, as a hospital may send them."""
    lines, scenes = ["path,label,patient,view,split"], []
    for patient, images in _visits(rows, generator, 3):
        ill = patient % 2
        split = "test" if patient % 5 == 0 else "train"
        for number in range(images):
            path = f"p{patient:04d}/{number}." + ("dcm" if patient % 3 else "png")
            lines.append(f"{path},{('clear', 'opacity')[ill]},P{patient:04d},frontal,{split}")
            kind: Kind = "dicom" if patient % 3 else "deep"
            scenes.append(Scene(path, kind, float(ill), patient))
    return Plan({"images.csv": _lines(*lines)}, scenes)


LAYOUTS: Mapping[str, Layout] = {
    "bach": Layout(_bach, 160, 400),
    "chestx": Layout(_chestx, 700, 112_120),
    "chexpert": Layout(_chexpert, 240, 223_414),
    "cifar10": Layout(_cifar10, 600, 60_000, ("binary", "python")),
    "cifar100": Layout(_cifar100, 1200, 60_000, ("binary", "python")),
    "diabetic_retinopathy": Layout(_eyepacs, 440, 88_702),
    "hospital": Layout(_hospital, 60, 600),
    "ichallenge_amd": Layout(_amd, 170, 400),
    "ichallenge_pm": Layout(_pm, 100, 400),
    "montgomerycxr": Layout(
        _tuberculosis("montgomery_metadata.csv", "MontgomerySet", "MCUCXR", 58 / 138), 138, 138
    ),
    "shenzhencxr": Layout(
        _tuberculosis("shenzhen_metadata.csv", "ChinaSet_AllFiles", "CHNCXR", 336 / 662), 120, 662
    ),
    "stoic": Layout(_stoic, 100, 2000),
}
"""Every layout that can be written, by the name that `-d` takes; hospital is a table."""
