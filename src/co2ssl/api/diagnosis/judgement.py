"""From numbers to sentences: what is remarkable about the images, what the run waits for, and what to change."""

from __future__ import annotations

from co2ssl.api.diagnosis.result import Measured, Prediction, Setting
from co2ssl.data.copies import MOST_BITS, MOST_LEVELS
from co2ssl.data.inspection import Inspection

IMBALANCE = 10
"""Times that the largest class has the images of the smallest from which on it is worth a word."""
LARGE = 4
"""Times that the shorter side of a file is that of a view from which on smaller copies are worth making."""
FILES_SHARE = 0.5
"""Share of the machine's memory in which the system can be expected to keep files that were read."""
TIGHT = 0.9
"""Share of the memory above which a run is at risk."""
ROOMY = 0.4
"""Share of a card's memory below which there is room for a larger batch."""
SMALL_ARCHS = ("resnet10", "resnet18")


def problem(found: Inspection, setting: Setting) -> str | None:
    """Why a run would not work; None where it would."""
    if setting.refused is not None:
        return setting.refused
    share, limit = len(found.bad) / found.looked_at, setting.options.max_bad_share
    if share <= limit:
        return None
    return (
        f"{100 * share:.1f} % of the images cannot be read, more than {100 * limit:g} %: pretrain would stop; remove "
        "or replace them, or give --max-bad-share"
    )


def findings(found: Inspection, measured: Measured, setting: Setting) -> tuple[str, ...]:
    """What is remarkable, besides a problem."""
    said = []
    if found.bad and problem(found, setting) is None:
        said.append("bad images do not stop a run: pretrain skips them, and names them in bad_images.csv")
    if found.exact_copies:
        said.append("copies with the same pixels: leave one of each out, or contrast pushes an image from itself")
    if found.near_copies:
        said.append(
            f"near copies (at most {MOST_BITS} of 64 bits of a difference hash and {MOST_LEVELS:g} grey levels apart): "
            "contrast pushes them away from each other; leave out what is not wanted twice"
        )
    size = setting.recipe.image_size
    if found.sizes is not None and found.sizes.short_side_tenth < size:
        said.append(
            f"a tenth of the images or more are smaller than a view: {found.sizes.short_side_tenth} of {size} px; "
            "enlarging adds nothing: give a smaller --image-size, or --auto"
        )
    balance = found.balance
    if balance is not None and balance.largest[1] >= IMBALANCE * balance.smallest[1]:
        said.append(
            f"the class {balance.largest[0]} has {balance.largest[1]:,} images and {balance.smallest[0]} has "
            f"{balance.smallest[1]:,}; training does not look at classes, but it learns most about what is frequent"
        )
    if balance is not None and balance.empty:
        said.append(f"{balance.empty:,} of the {balance.classes:,} classes have no image")
    return (*said, *_about_the_disk(found, measured, setting))


def _about_the_disk(found: Inspection, measured: Measured, setting: Setting) -> list[str]:
    room = cache_bytes(found)
    if setting.options.cache and room > FILES_SHARE * setting.host_memory:
        return [f"the cache of about {in_bytes(room)} does not fit in memory: every epoch reads it from the disk"]
    disk, together = measured.disk, measured.together
    if disk is None or together is None:
        return []
    if from_disk(found, setting):
        size, memory = in_bytes(files_bytes(found)), in_bytes(setting.host_memory)
        return [f"files of {size} do not fit in memory ({memory}): every epoch reads them from the disk"]
    if found.images / disk.rate > together.epoch_seconds:
        return [f"the first epoch waits for the disk ({disk.rate:,.0f} images/s); later ones find the files in memory"]
    return []


def from_disk(found: Inspection, setting: Setting) -> bool:
    """Whether files are more than the system can keep in memory, so that every epoch reads them anew."""
    return not setting.options.cache and files_bytes(found) > FILES_SHARE * setting.host_memory


def files_bytes(found: Inspection) -> int:
    """Bytes of all files, judged by those looked at; 0 where the images are no files."""
    return 0 if found.file_bytes is None else found.file_bytes[2] * found.images // found.looked_at


def cache_bytes(found: Inspection) -> int:
    """Bytes of all images decoded, judged by those looked at."""
    if found.sizes is None:
        return 0
    return round(3 * found.sizes.mean_pixels * found.images * len(found.good) / found.looked_at)


def milliseconds(measured: Measured, setting: Setting) -> dict[str, float]:
    """What each part takes the whole machine for an image: what workers do at once is divided by how many do."""
    shared = {"disk": 1, "decode": setting.hands, "augment": setting.hands, "copy": 1, "step": 1}
    paces = {part: getattr(measured, part) for part in shared}
    return {part: 1000 / pace.rate / shared[part] for part, pace in paces.items() if pace is not None}


def binding(measured: Measured, found: Inspection, setting: Setting) -> str | None:
    """The part that takes most of the time of an image: in making its views, or in training, whichever is longer.

    Workers and training run at the same time, and on a CPU they share the cores: either way the longer one decides.
    The disk counts where every epoch has to read from it.
    """
    spent = milliseconds(measured, setting)
    if not from_disk(found, setting):
        spent.pop("disk", None)
    training = {part: spent.pop(part) for part in ("copy", "step") if part in spent}
    longer = spent if sum(spent.values()) > sum(training.values()) else training
    return max(longer, key=lambda part: longer[part]) if longer else None


def predict(measured: Measured, found: Inspection, setting: Setting) -> Prediction | None:
    """Time and memory of a run; None where it could not be tried."""
    together = measured.together
    if together is None:
        return None
    epoch = together.epoch_seconds
    if measured.disk is not None and from_disk(found, setting):
        epoch = max(epoch, found.images / measured.disk.rate)
    return Prediction(
        epoch_seconds=epoch,
        seconds=epoch * setting.recipe.epochs,
        host_bytes=together.host_bytes,
        device_bytes=together.device_bytes,
    )


def advice(binds: str | None, found: Inspection, measured: Measured, setting: Setting) -> tuple[str, ...]:
    """What to change, the most helpful first, where ``binds`` decides how long the run takes."""
    said = _about_memory(measured, setting)
    if binds in ("step", "copy"):
        said += _for_training(measured, setting)
    elif binds is not None:
        said += _for_views(binds, found, setting)
    return tuple(said)


def _about_memory(measured: Measured, setting: Setting) -> list[str]:
    together = measured.together
    if together is None:
        return []
    said = []
    if together.device_bytes is not None and together.device_bytes > TIGHT * setting.device_memory:
        said.append("a smaller --batch-size: the memory of the device is all but used up")
    if together.host_bytes is not None and together.host_bytes > TIGHT * setting.host_memory:
        said.append("a smaller --batch-size, or fewer --workers: the memory of this machine is all but used up")
    return said


def _for_views(binds: str, found: Inspection, setting: Setting) -> list[str]:
    said = []
    size = setting.recipe.image_size
    if setting.workers < setting.cores:
        said.append(f"--workers {setting.cores}: there are {setting.cores} cores, and {setting.workers} make views")
    if binds == "augment":
        if setting.device != "cpu" and setting.options.views_on == "worker":
            said.append(f"--views-on device: the {setting.device} device does colour, blur and flip of whole batches")
        said.append(f"a smaller --image-size than {size}: its operations work on fewer pixels")
        return said
    if not setting.options.cache:
        room = cache_bytes(found)
        fits = room < FILES_SHARE * setting.host_memory
        said.append(
            f"--cache: every image is decoded once, into about {in_bytes(room)}"
            + ("" if fits else ", more than memory holds: it pays only on a fast disk")
        )
    if found.sizes is not None and min(found.sizes.median) >= LARGE * size:
        said.append(
            f"smaller copies of the images: the shorter side is {min(found.sizes.median)} px, that of a view {size} px"
        )
    if binds == "disk":
        said.append("a faster disk, or the images on a local one")
    return said


def _for_training(measured: Measured, setting: Setting) -> list[str]:
    recipe, together, said = setting.recipe, measured.together, []
    on_cpu = setting.device == "cpu"
    if setting.options.views_on == "device":
        said.append("--views-on worker, if cores are idle: colour, blur and flip are part of the step now")
    if setting.fast_bf16 and setting.options.precision == "float32":
        said.append("--precision bf16: this device has fast bfloat16 arithmetic")
    if on_cpu:
        said.append("a GPU (--device cuda), if there is one: this was measured on the CPU")
    elif together is not None and together.device_bytes and together.device_bytes < ROOMY * setting.device_memory:
        said.append(
            f"a larger --batch-size than {recipe.batch_size}, with a learning rate that belongs to it: "
            f"{in_bytes(together.device_bytes)} of {in_bytes(setting.device_memory)} are used"
        )
    if recipe.image_size > 64:
        said.append(f"a smaller --image-size than {recipe.image_size}: arithmetic grows with its square")
    if recipe.arch not in SMALL_ARCHS:
        said.append(f"a smaller --arch than {recipe.arch}")
    if on_cpu and recipe.width > 0.5:
        said.append("--width 0.5: half the channels are about a quarter of the arithmetic")
    return said or ["nothing cheap: the network itself takes the time; fewer --epochs are what is left"]


def in_bytes(count: float) -> str:
    """``"3.2 MB"``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
