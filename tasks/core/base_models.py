"""Where the files of a base model are."""

from importlib import metadata
from pathlib import Path

from tasks.core.errors import DataError

PACKAGE = "package:"


def resolve_base_model(base_model: str) -> str:
    """Return what transformers can load: `package:NAME` becomes the folder in that package that holds config.json.

    A folder or hub id comes back unchanged. Raises DataError when the package or its config.json is missing.
    """
    if not base_model.startswith(PACKAGE):
        return base_model
    name = base_model.removeprefix(PACKAGE)
    try:
        package = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise DataError(
            f"base model '{base_model}': package '{name}' is not installed. Run: python -m pip install {name or 'NAME'}"
        ) from error
    configs = [Path(str(package.locate_file(file))) for file in package.files or [] if file.name == "config.json"]
    found = sorted((path for path in configs if path.is_file()), key=lambda path: len(path.parts))
    if not found:
        raise DataError(
            f"base model '{base_model}': package '{name}' {package.version} holds no config.json: it carries no model. "
            "Name a package with the files of a transformers model, a folder, or a hub id in training.base_model"
        )
    return str(found[0].parent)
