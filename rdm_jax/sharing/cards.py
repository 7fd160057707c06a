"""The cards of shared models and databases: what is recorded of their making, licenses, use and measured results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.trees import count
from rdm_jax.retrieval.attribution import LICENSE_KEYS, SET_KEYS, cell
from rdm_jax.retrieval.database import Database

FILE = "README.md"
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *(
        "openrail",
        "openrail++",
        "creativeml-openrail-m",
        "gpl-3.0",
        "lgpl-3.0",
        "mpl-2.0",
        "isc",
        "unlicense",
        "ofl-1.1",
    ),
)
"""The Hub's identifiers of licenses that are written as they are; any other one is "other" with its name."""
MOST_CREDITS = 200
UNKNOWN = "not recorded"
INSTALL = 'pip install "rdm_jax[hub]"'


def model_card(bundle: Bundle, address: str, license_: str = "", attribution: str = "") -> str:
    """Returns the card of a model in Markdown.

    Args:
      bundle: the model.
      address: of its repository.
      license_: of the weights; the recorded one, if there is one, by default.
      attribution: Markdown with the sources and authors to name, "" for none beside the recorded ones.
    """
    head, license_ = bundle.config.get("head"), license_ or _recorded(bundle.config, LICENSE_KEYS)
    tags = ["rdm_jax", "jax", "flax", "retrieval-augmented-generation", *([str(head)] if head else [])]
    meta = {"library_name": "rdm_jax", "tags": tags, **({"pipeline_tag": "text-to-image"} if head else {})}
    kind = f"A {head} model" if head else "Parts of a model"
    sections = [
        f"{kind} of rdm_jax, for retrieval-augmented generation of images.",
        _table(("Part", "Kind", "Parameters"), [_part(bundle, part) for part in bundle.params]),
        f"## Use\n\n{_commands(_model_commands(bundle, address))}",
        f"## Training\n\n{_training(bundle.config)}",
        f"## License and attribution\n\n{_model_license(bundle, license_, attribution)}",
        f"## Measured results\n\n{_results(bundle.config)}",
    ]
    return _card(bundle.name, {**meta, **_license_fields(license_)}, sections)


def database_card(database: Database, address: str, license_: str = "", attribution: str = "") -> str:
    """Returns the card of a database in Markdown; its arguments are those of `model_card`.

    Raises:
      UserError: the database is damaged.
    """
    license_ = license_ or _recorded(database.manifest, LICENSE_KEYS)
    encoder = database.encoder
    meta = {"tags": ["rdm_jax", "retrieval"], "task_categories": ["text-to-image"]}
    sources = [
        (source["name"], source["rows"], source["captions"], _recorded(source, LICENSE_KEYS) or UNKNOWN)
        for source in database.manifest["sources"]
    ]
    sections = [
        f"A database of rdm_jax: {len(database):,} rows of {database.width} numbers, with captions and attributes"
        f"{' and thumbnails' if database.has_thumbnails else ''}. A prompt retrieves its neighbors from it.",
        f"The encoder {cell(str(encoder['name']))} made the rows (SHA-256 of its weights: `{encoder['sha256']}`). It "
        "fits models with this encoder and no others.",
        "## Use\n\n" + _commands([f'rdm sample "a red boat" --database {address}', f"rdm database info {address}"]),
        "## Sources\n\n" + _table(("Source", "Rows", "Captions", "License"), sources),
        f"## License and attribution\n\n{_credits(database, license_)}" + (f"\n\n{attribution}" if attribution else ""),
    ]
    return _card(database.name, {**meta, **_license_fields(license_)}, sections)


def _card(title: str, meta: Mapping[str, Any], sections: Sequence[str]) -> str:
    front = yaml.safe_dump(dict(meta), sort_keys=False, allow_unicode=True)
    return "\n".join([f"---\n{front}---\n\n# {cell(title)}\n", *(f"{section}\n" for section in sections)])


def _part(bundle: Bundle, part: str) -> tuple[str, str, str]:
    return part, str(bundle.config[part].get("kind", "")), f"{count(bundle.params[part]):,}"


def _model_commands(bundle: Bundle, address: str) -> list[str]:
    if "head" in bundle.config:
        return [f'rdm sample "a red boat" --model {address}']
    if bundle.has("clip"):
        return [f"rdm database build my-images --encoder {address} --out my-database"]
    return [f"rdm export {address} --out my-model"]


def _training(config: Mapping[str, Any]) -> str:
    """Returns what is recorded of the training of each part."""
    training = config.get("training", {})
    if not training:
        return "The bundle records no training."
    shown = ("data", "database", "steps", "batch_size", "seed")
    rows = [(part, *(record.get(key, UNKNOWN) for key in shown)) for part, record in training.items()]
    lines = [_table(("Part", "Data", "Database", "Steps", "Batch size", "Seed"), rows)]
    if "distillation" in config:
        lines.append(f"A few-step student of {cell(str(config['distillation'].get('teacher') or UNKNOWN))}.")
    return "\n\n".join(lines)


def _model_license(bundle: Bundle, license_: str, attribution: str) -> str:
    lines = [
        f"License: {cell(license_)}." if license_ else "No license is recorded; ask whoever made it before you use it."
    ]
    default = str(bundle.config.get("sampling", {}).get("database", ""))
    if default in Database.names():
        terms = _recorded(Database.open(default).manifest, LICENSE_KEYS) or UNKNOWN
        lines.append(f"Images of its default database {cell(default)}, which comes with rdm_jax: {cell(terms)}.")
    lines.append(
        "Generated images resemble their neighbors: `ATTRIBUTION.md` beside them names these and their licenses."
    )
    return "\n\n".join([*lines, *([attribution] if attribution else [])])


def _results(config: Mapping[str, Any]) -> str:
    """Returns what was measured of the exported parameters on held-out images while they were trained."""
    rows = [
        (part, name, f"{value:.6g}", record["measured_at"])
        for part, record in config.get("training", {}).items()
        for name, value in record.get("results", {}).items()
    ]
    if not rows:
        return "The bundle records none."
    return _table(("Part", "On held-out images", "Value", "At step"), rows)


def _credits(database: Database, license_: str) -> str:
    """Returns which sets, authors and licenses the rows name, those with the most images first."""
    columns = [_column(database, keys) for keys in (SET_KEYS, ("author", "artist"), LICENSE_KEYS)]
    found = Counter(zip(*columns, strict=True)).most_common()
    rows = [
        (set_ or database.name, author or UNKNOWN, own or license_ or UNKNOWN, number)
        for (set_, author, own), number in found[:MOST_CREDITS]
    ]
    lines = [_table(("Set", "Author", "License", "Images"), rows)]
    if len(found) > MOST_CREDITS:
        lines.append(f"{len(found) - MOST_CREDITS} more are named by the rows themselves.")
    if not license_ and not any(own for *_, own in dict(found)):
        lines.insert(0, "No license is recorded in this database; ask whoever made it before you publish the images.")
    return "\n\n".join(lines)


def _column(database: Database, keys: Sequence[str]) -> list[str]:
    """Returns for each row the first of some attributes that it has, "" if it has none."""
    columns = [database.column(key).to_pylist() for key in keys]
    return [next((value for value in row if value), "") for row in zip(*columns, strict=True)]


def _recorded(record: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((str(record[key]) for key in keys if record.get(key)), "")


def _license_fields(license_: str) -> dict[str, str]:
    if not license_:
        return {}
    known = license_.lower().replace(" ", "-")
    return {"license": known} if known in LICENSES else {"license": "other", "license_name": license_}


def _commands(commands: Sequence[str]) -> str:
    return "\n".join(["```bash", INSTALL, *commands, "```"])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([cell(str(value)) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def check_license(license_: str) -> None:
    """Raises UserError for a license that is more than a name."""
    if len(license_) > 100 or "\n" in license_:
        raise UserError(
            "--license is longer than a name; give one such as apache-2.0, and its text in the model's folder"
        )
