"""The YAML that describes a run, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator  # noqa: TC003 (pydantic reads the annotations)
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolkit.descriptors.reduce import check_components
from toolkit.errors import InputError

Values = list[Any]
_Model = TypeVar("_Model", bound=BaseModel)
_INHERITED: tuple[str, ...] = ("n_components", "scalers")
_OWN = {*_INHERITED, "grid_per_descriptor"}  # of a stage with a grid; a refined one has the models' own
_Strict = ConfigDict(extra="forbid", frozen=True)


class _Parameter(BaseModel):
    """What a parameter of an estimator may be, and whether a refined stage varies it."""

    kind: Literal["integer", "number", "choice"]
    minimum: float = -math.inf
    exclusive: bool = False
    choices: tuple[Any, ...] = ()
    optional: bool = False
    refined: bool = False

    def problem(self, value: Any) -> str | None:
        """Say what is allowed, if `value` is not."""
        if value is None and self.optional:
            return None
        if self.kind == "choice":
            fits = any(type(value) is type(choice) and value == choice for choice in self.choices)
            return None if fits else f"allowed: {', '.join(map(str, self.choices))}"
        kinds = int if self.kind == "integer" else int | float
        is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and (value > self.minimum or (value == self.minimum and not self.exclusive)):
            return None
        noun = "a whole number" if self.kind == "integer" else "a number"
        return f"allowed: {noun} {'above' if self.exclusive else 'of at least'} {self.minimum:g}"


def _whole(minimum: int, *, optional: bool = False, refined: bool = False) -> _Parameter:
    return _Parameter(kind="integer", minimum=minimum, optional=optional, refined=refined)


# Estimator -> parameter -> what it may be (scikit-learn's names and meanings).
PARAMETERS: dict[str, dict[str, _Parameter]] = {
    "KMeans": {
        "n_clusters": _whole(2, refined=True),
        "n_init": _whole(1),
        "max_iter": _whole(1),
        "tol": _Parameter(kind="number", minimum=0),
        "init": _Parameter(kind="choice", choices=("k-means++", "random")),
    },
    "DBSCAN": {
        "eps": _Parameter(kind="number", minimum=0, exclusive=True, refined=True),
        "min_samples": _whole(1, refined=True),
    },
    "HDBSCAN": {
        "min_cluster_size": _whole(2, refined=True),
        "min_samples": _whole(1, optional=True, refined=True),
        "cluster_selection_method": _Parameter(kind="choice", choices=("eom", "leaf")),
        "cluster_selection_epsilon": _Parameter(kind="number", minimum=0, refined=True),
        "max_cluster_size": _whole(1, optional=True),
        "allow_single_cluster": _Parameter(kind="choice", choices=(False, True)),
    },
}
REQUIRED = {"KMeans": ("n_clusters",), "DBSCAN": ("eps", "min_samples"), "HDBSCAN": ("min_cluster_size",)}

Grid = dict[str, dict[str, Values]]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Integer = Annotated[int, Field(strict=True)]


def check_grid(grid: Grid) -> Grid:
    """Check the estimators, parameters and values of a grid and make every value list a list.

    Raises
    ------
    ValueError
        Naming what was received and what is allowed.
    """
    if not grid:
        raise ValueError(f"the grid is empty; give at least one of {', '.join(PARAMETERS)}")
    for family, parameters in grid.items():
        if family not in PARAMETERS:
            raise ValueError(f"unknown estimator {family!r}; known: {', '.join(PARAMETERS)}")
        for name, values in parameters.items():
            if name not in PARAMETERS[family]:
                raise ValueError(f"unknown parameter {family}.{name}; known: {', '.join(PARAMETERS[family])}")
            if not values:
                raise ValueError(f"{family}.{name} has no values; give at least one")
            for value in values:
                if problem := PARAMETERS[family][name].problem(value):
                    raise ValueError(f"{family}.{name} is {value!r}; {problem}")
        if missing := [name for name in REQUIRED[family] if name not in parameters]:
            raise ValueError(f"{family} needs values for {', '.join(missing)}")
    return grid


def _check_all_components(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: check_components(one) for name, one in value.items()}
    return check_components(value)


def _once(values: list[str]) -> list[str]:
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{twice[0]!r} is there twice")
    return values


def listed(grid: Any) -> Any:
    """Let a single value stand for a list of one."""
    if not isinstance(grid, dict):
        return grid
    return {
        family: {name: values if isinstance(values, list) else [values] for name, values in parameters.items()}
        if isinstance(parameters, dict)
        else parameters
        for family, parameters in grid.items()
    }


class Descriptors(BaseModel):
    """Where the descriptor files are, and the images that they describe.

    `images` is a folder or zip archive that holds the images; by default image paths are looked for as files.
    """

    model_config = _Strict
    folder: Path
    names: Annotated[list[str], Field(min_length=1)] | None = None
    image_paths: Path | None = None
    images: Path | None = None


class Refine(BaseModel):
    """A finer grid around the `top` best models of each descriptor and estimator of the stage before."""

    model_config = _Strict
    top: Annotated[Integer, Field(ge=1)]


class Stage(BaseModel):
    """One pass over a grid; what is not given is as in the stage before."""

    model_config = _Strict
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    fraction: Share = 1.0
    n_components: Annotated[Any, AfterValidator(_check_all_components)] = None
    scalers: Annotated[list[Literal["norm", "std", "l2", "none"]], Field(min_length=1), AfterValidator(_once)] = [
        "norm"
    ]
    grid: Grid | None = None
    grid_per_descriptor: dict[str, Grid] = {}
    refine: Refine | None = None

    @field_validator("grid", mode="before")
    @classmethod
    def _list_values(cls, grid: Any) -> Any:
        return listed(grid)

    @field_validator("grid_per_descriptor", mode="before")
    @classmethod
    def _list_values_per_descriptor(cls, grids: Any) -> Any:
        return {name: listed(grid) for name, grid in grids.items()} if isinstance(grids, dict) else grids

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if (self.grid is None) == (self.refine is None):
            raise ValueError("a stage has either a grid or refine")
        for grid in (*([] if self.grid is None else [self.grid]), *self.grid_per_descriptor.values()):
            check_grid(grid)
        return self

    def components_of(self, descriptor: str) -> int | float | None:
        """Return the `n_components` of one descriptor."""
        if isinstance(self.n_components, dict):
            return check_components(self.n_components[descriptor])
        return check_components(self.n_components)

    def grid_of(self, descriptor: str) -> Grid:
        """Return the grid of one descriptor: its own estimators, where given, in place of the common ones."""
        return {**(self.grid or {}), **self.grid_per_descriptor.get(descriptor, {})}


class Best(BaseModel):
    """How finalists are chosen among the models of the last stage: constraints, then one metric, or several."""

    model_config = _Strict
    by: str | Annotated[list[str], Field(min_length=1), AfterValidator(_once)] = "calinski_harabasz_score"
    per: Literal["descriptor", "scaler", "cluster_class"] = "descriptor"
    top: Annotated[Integer, Field(ge=1)] = 1
    min_coverage: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    max_largest_share: Share = 0.95
    min_clusters: Annotated[Integer, Field(ge=2)] = 2
    max_clusters: Annotated[Integer, Field(ge=2)] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics in `by`."""
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)

    @model_validator(mode="after")
    def _check(self) -> Best:
        from toolkit.score import METRICS

        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise ValueError(f"unknown metric {unknown[0]!r}; known: {', '.join(METRICS)}")
        if self.max_clusters is not None and self.max_clusters < self.min_clusters:
            raise ValueError(
                f"max_clusters is {self.max_clusters}; allowed: min_clusters ({self.min_clusters}) or more"
            )
        return self


class Config(BaseModel):
    """A whole run."""

    model_config = _Strict
    descriptors: Descriptors
    stages: Annotated[list[Stage], Field(min_length=1)]
    best: Best = Best()
    engine: Literal["shared", "reference", "cuml"] = "shared"
    noise: Literal["exclude", "as_cluster"] = "exclude"
    silhouette_rows: Annotated[Integer, Field(ge=0)] = 10_000
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, content: Any) -> Any:
        """Let a stage take `n_components` and `scalers` from the stage before."""
        if isinstance(content, dict) and isinstance(content.get("stages"), list):
            before: dict[str, Any] = {}
            stages = []
            for stage in content["stages"]:
                if isinstance(stage, dict) and stage.get("refine") is not None:
                    if own := sorted(_OWN & set(stage)):
                        raise ValueError(f"a stage with refine takes {own[0]} from the models it refines; leave it out")
                elif isinstance(stage, dict):
                    stage = {k: before[k] for k in _INHERITED if k in before} | stage
                    before = stage
                stages.append(stage)
            content = {**content, "stages": stages}
        return content

    @model_validator(mode="after")
    def _check_stages(self) -> Config:
        names = [stage.name for stage in self.stages]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two stages are called {twice[0]!r}")
        if self.stages[0].refine:
            raise ValueError(f"stage {names[0]!r} is the first: there is nothing to refine, it needs a grid")
        return self

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the results, as JSON-ready values."""
        content = self.model_dump(mode="json")
        del content["descriptors"]["images"]  # only looked at: they may move without another run
        for stage in content["stages"]:
            if stage["refine"]:
                for key in _OWN:
                    del stage[key]
        return content


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, but a key that is there twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 (PyYAML's signature)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"key {twice[0]!r} is there twice, before line {node.end_mark.line + 1}")
        return super().construct_mapping(node, deep)


def load_config(path: Path) -> Config:
    """Read and check a YAML configuration.

    Relative paths in it are relative to the folder in which the command runs.

    Raises
    ------
    InputError
        One line that names the key, what was received and what is allowed.
    """
    return parse_config(read_yaml(path, "config"), source=str(path))


def seeded(config: Config, seed: int | None) -> Config:
    """Return a configuration with another seed; None: its own."""
    if seed is None:
        return config
    other = parse_config(config.identity() | {"seed": seed}, source="--seed")
    return other.model_copy(update={"descriptors": config.descriptors})  # with the images, which are no identity


def read_yaml(path: str | Path, what: str) -> Any:
    """Read a YAML file in which no key is twice; `what` it is, for the error."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        raise InputError(f"{what} {path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError, RecursionError) as error:
        raise InputError(f"{what} {path} is not readable YAML: {' '.join(str(error).split())}") from error


def parse_config(content: Any, *, source: str = "config") -> Config:
    """Check a configuration given as plain dicts and lists; see `load_config`."""
    if not isinstance(content, dict):
        raise InputError(f"{source} holds {type(content).__name__}; expected keys: {', '.join(Config.model_fields)}")
    return validated(Config, content, source)


def validated(kind: type[_Model], content: dict[str, Any], source: str) -> _Model:
    """Return a model of this kind; what is wrong with the content is one line that begins with the source."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {'; '.join(_explain(problem) for problem in error.errors())}") from error


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}; known here: {', '.join(_known_keys(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "value_error":  # our own words
        return f"{where}: {problem['ctx']['error']}"
    return f"{where} is {problem['input']!r:.80}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _known_keys(location: tuple[Any, ...]) -> Iterator[str]:
    """Return the keys that are known at a place of the configuration."""
    model: type[BaseModel] = Config
    homes: dict[str, type[BaseModel]] = {
        "descriptors": Descriptors, "stages": Stage, "best": Best, "refine": Refine,
    }  # fmt: skip
    for part in location:
        model = homes.get(str(part), model)
    return iter(model.model_fields)
