"""What every part of a loop's YAML file is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Delimiter = Annotated[str, Field(min_length=1, max_length=1)]  # a tab is "\t" in double quotes


class Section(BaseModel):
    """A frozen part of the file that accepts no unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
