"""Files of sources, wherever they are, as local files."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.schema import FileSource
from tasks.core.errors import DataError, TransientError
from tasks.stores.text_files import first_line


@contextmanager
def local_file(source: FileSource, base_dir: Path) -> Iterator[Path]:
    """Yield a local, uncompressed copy of a source's file: the file itself where it is one already.

    Raises DataError when there is no such file or no driver for its URL, TransientError when its store does not answer.
    """
    import fsspec

    plain = fsspec.utils.infer_compression(source.path) is None
    if "://" not in source.path and plain:
        yield _existing(Path(source.path).expanduser(), base_dir, source)
        return
    url = source.path if "://" in source.path else str(_existing(Path(source.path).expanduser(), base_dir, source))
    with tempfile.TemporaryDirectory(prefix="evertune-") as scratch:
        target = Path(scratch) / f"copy.{source.kind}"
        _copy(url, target, source)
        yield target


def _existing(path: Path, base_dir: Path, source: FileSource) -> Path:
    full = (base_dir / path).absolute()
    if not full.is_file():
        raise DataError(
            f"source '{source.name}': no file '{source.path}' in {base_dir}; {_surroundings(full.parent)}. "
            "Set path of this source, relative to the loop's YAML, absolute, or a URL"
        )
    return full


def _surroundings(folder: Path) -> str:
    if not folder.is_dir():
        return "the folder does not exist either"
    names = sorted(path.name for path in folder.iterdir() if path.is_file())[:10]
    return f"the folder holds {', '.join(names) or 'no file'}"


def _copy(url: str, target: Path, source: FileSource) -> None:
    import aiohttp
    import fsspec

    place = f"source '{source.name}': {source.path}"
    try:
        with fsspec.open(url, "rb", compression="infer") as remote, target.open("wb") as local:
            while block := remote.read(1 << 22):
                local.write(block)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, aiohttp.ClientError) and getattr(error.__cause__, "status", 0) != 404:
            raise TransientError(f"{place}: the store does not answer: {first_line(error.__cause__)}") from error
        raise DataError(f"{place}: there is no such file. Set path of this source in the loop's YAML") from error
    except PermissionError as error:
        raise DataError(f"{place}: access is denied. Check the credentials in the environment") from error
    except (ImportError, ValueError) as error:
        raise DataError(f"{place}: cannot be opened: {first_line(error)}") from error
    except EOFError as error:
        raise DataError(f"{place}: the compressed file is cut off") from error
    except (OSError, aiohttp.ClientError) as error:
        raise TransientError(f"{place}: the store does not answer: {first_line(error)}") from error
