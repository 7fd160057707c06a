"""The measured guidance methods and conditioners, as a table: how each is made, and its expected effects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from rdm_jax.conditioning import Conditioner, Mix, Switch
from rdm_jax.evaluation.gallery import Target, named_labels, style_attribute
from rdm_jax.guidance import ILVR, SDG, ClassifierGuidance, CLIPGuidance, GuidanceMethod, Inpaint, Project

FREE, PROMPTED, OWN = "free", "prompted", "own"
Labels = Callable[[Target], Mapping[str, str]]
MORE, LESS, SAME, NONE = "more", "less", "same", "none"


@dataclasses.dataclass(frozen=True)
class Effect:
    """The expected effect of a method on a measure.

    Attributes:
      measure: its name.
      direction: MORE, LESS, the SAME, or NONE at all.
      versus_prompt: whether images with the request in the prompt are the baseline, otherwise those without the method.
    """

    measure: str
    direction: str
    versus_prompt: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """One target at one weight, from which a method makes its guide or its conditioner.

    Attributes:
      target: the reference and the prompt.
      weight: of the method.
      mask: a file, white where images are generated.
      learned: a file of weights for `Mix`.
    """

    target: Target
    weight: float
    mask: str = ""
    learned: str = ""


@dataclasses.dataclass(frozen=True)
class Method:
    """A measured guide or conditioner.

    Attributes:
      name: its key in the results.
      title: its name in a table.
      base: what is guided: FREE (no condition), PROMPTED (the target's prompt) or OWN (the reference's caption).
      wanted: the labels that the classifier should find.
      effects: the expected ones.
      weights: the values of `symbol`, from weak to strong.
      weight: the value in the tables.
      guide: makes the guide; None for a conditioner.
      condition: makes the conditioner; None for a guide.
      reads: what the two read of a case beside the reference: "style", "changed", "mask" or "learned".
      symbol: the name of the parameter that `weights` are of.
      outright: the request as a part of the prompt, measured beside it: "style", "changed", or "" for none.
      needs: parts of the model.
      measures: the columns of its table.
    """

    name: str
    title: str
    base: str
    wanted: Labels
    effects: tuple[Effect, ...]
    weights: tuple[float, ...]
    weight: float
    guide: Callable[[Case], GuidanceMethod] | None = None
    condition: Callable[[Case], Conditioner] | None = None
    reads: tuple[str, ...] = ()
    symbol: str = "weight"
    outright: str = ""
    needs: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()

    def options(self, case: Case) -> dict[str, Sequence[GuidanceMethod | Conditioner]]:
        """Returns the options of `Generator.plan` for a case."""
        return {
            "guides": [self.guide(case)] if self.guide else [],
            "conditions": [self.condition(case)] if self.condition else [],
        }

    def lacks(self, parts: Callable[[str], bool], targets: list[Target]) -> str:
        """Returns what is missing to measure this, "" if nothing is."""
        missing = [part for part in self.needs if not parts(part)]
        if missing:
            return f"the model has no {missing[0]}"
        style = style_attribute(list(targets[0].labels))
        if "style" in self.reads and not all(target.style for target in targets):
            return "no caption names a style"
        if "changed" in self.reads and not all(target.changed for target in targets):
            return "no caption names a class of the classifier"
        if any(effect.measure == "style" for effect in self.effects) and not style:
            return "the classifier and the images share no style"
        return ""


def of_caption(target: Target) -> Mapping[str, str]:
    """Returns the labels that the reference's caption names."""
    return named_labels(target.caption, target.labels)


def of_reference(target: Target) -> Mapping[str, str]:
    """Returns all labels of the reference."""
    return target.labels


def of_prompt(target: Target) -> Mapping[str, str]:
    """Returns the labels that the prompt names."""
    return named_labels(target.prompt, target.prompt_labels)


def prompt_in_style(target: Target) -> Mapping[str, str]:
    """Returns the labels that the prompt names, with the style that is requested by name."""
    return {**of_prompt(target), style_attribute(list(target.labels)): target.style}


def prompt_like_reference(target: Target) -> Mapping[str, str]:
    """Returns the labels that the prompt names, with the reference's style."""
    style = style_attribute(list(target.labels))
    return {**of_prompt(target), **({style: target.labels[style]} if style else {})}


def changed(target: Target) -> Mapping[str, str]:
    """Returns the labels that the changed prompt names."""
    return named_labels(target.changed, target.changed_labels)


def with_style(target: Target) -> str:
    """Returns the prompt with the name of the style."""
    return f"{target.prompt}, {target.style}"


TEXT, CONTENT, STRUCTURE, STYLE, NAMED_STYLE, CLIP, CLASS = 300.0, 300.0, 100.0, 100.0, 300.0, 300.0, 30.0

ALIGNED = Effect("subject", MORE), Effect("colour", MORE), Effect("caption@10", MORE)
KEPT = Effect("subject", SAME), Effect("colour", SAME)
LIKE_CAPTION = "subject", "colour", "caption@1", "caption@10", "frechet", "diversity"
IN_STYLE = "style", "subject", "colour", "frechet", "diversity"
EDITED = "subject", "colour", "moved", "moved_pixels", "frechet"


def _inpainting(name: str, title: str, cls: type[Inpaint] | type[Project]) -> Method:
    return Method(
        name=name,
        title=title,
        base=OWN,
        wanted=of_caption,
        effects=(Effect("known", NONE), Effect("seam", LESS)),
        weights=(1.0,),
        weight=1.0,
        guide=lambda case: cls(image=str(case.target.file), mask=case.mask),
        reads=("mask",),
        measures=("known", "seam", "subject", "colour", "frechet"),
    )


METHODS: tuple[Method, ...] = (
    Method(
        name="language",
        title="SDG, text",
        base=FREE,
        wanted=of_caption,
        effects=ALIGNED,
        weights=(TEXT / 10, TEXT / 3, TEXT, 3 * TEXT),
        weight=TEXT,
        guide=lambda case: SDG(text=case.target.caption, weight=case.weight),
        needs=("noised_clip",),
        measures=LIKE_CAPTION,
    ),
    Method(
        name="content",
        title="SDG, content of an image",
        base=FREE,
        wanted=of_reference,
        effects=(Effect("image@10", MORE), Effect("classifier@10", MORE)),
        weights=(CONTENT / 10, CONTENT / 3, CONTENT, 3 * CONTENT),
        weight=CONTENT,
        guide=lambda case: SDG(content=str(case.target.file), weight=case.weight),
        needs=("noised_clip",),
        measures=("subject", "colour", "image@1", "image@10", "classifier@10", "frechet", "diversity"),
    ),
    Method(
        name="structure",
        title="SDG, structure of an image",
        base=FREE,
        wanted=of_reference,
        effects=(Effect("layout", MORE),),
        weights=(STRUCTURE / 3, STRUCTURE, 3 * STRUCTURE),
        weight=STRUCTURE,
        guide=lambda case: SDG(structure=str(case.target.file), weight=case.weight),
        needs=("noised_clip",),
        measures=("layout", "low", "subject", "frechet", "diversity"),
    ),
    Method(
        name="style",
        title="SDG, style of an image",
        base=PROMPTED,
        wanted=prompt_like_reference,
        effects=(Effect("gram", LESS), Effect("style", MORE), *KEPT),
        weights=(STYLE / 10, STYLE / 3, STYLE, 3 * STYLE),
        weight=STYLE,
        guide=lambda case: SDG(style=str(case.target.file), weight=case.weight),
        needs=("noised_clip",),
        measures=("gram", "style", "subject", "colour", "frechet"),
    ),
    Method(
        name="named-style",
        title="SDG, a style by its name",
        base=PROMPTED,
        wanted=prompt_in_style,
        effects=(Effect("style", MORE), *KEPT),
        weights=(NAMED_STYLE / 3, NAMED_STYLE, 3 * NAMED_STYLE),
        weight=NAMED_STYLE,
        guide=lambda case: SDG(text=case.target.style, weight=case.weight),
        reads=("style",),
        outright="style",
        needs=("noised_clip",),
        measures=IN_STYLE,
    ),
    Method(
        name="clip-language",
        title="CLIP on the clean estimate, text",
        base=FREE,
        wanted=of_caption,
        effects=ALIGNED,
        weights=(2 * CLIP,),
        weight=2 * CLIP,
        guide=lambda case: CLIPGuidance(text=case.target.caption, weight=case.weight),
        measures=LIKE_CAPTION,
    ),
    Method(
        name="clip",
        title="CLIP on the clean estimate, a style by its name",
        base=PROMPTED,
        wanted=prompt_in_style,
        effects=(Effect("style", MORE), *KEPT),
        weights=(CLIP,),
        weight=CLIP,
        guide=lambda case: CLIPGuidance(text=case.target.style, weight=case.weight, cutouts=4),
        reads=("style",),
        measures=IN_STYLE,
    ),
    Method(
        name="classifier",
        title="classifier of noisy latents",
        base=PROMPTED,
        wanted=prompt_in_style,
        effects=(Effect("style", MORE), *KEPT),
        weights=(CLASS / 3, CLASS, 3 * CLASS),
        weight=CLASS,
        guide=lambda case: ClassifierGuidance(
            attribute=style_attribute(list(case.target.labels)), label=case.target.style, weight=case.weight
        ),
        reads=("style",),
        needs=("noised_classifier",),
        measures=IN_STYLE,
    ),
    Method(
        name="ilvr",
        title="ILVR",
        base=FREE,
        wanted=of_reference,
        effects=(Effect("low", LESS),),
        weights=(8.0, 4.0, 2.0),
        weight=4.0,
        guide=lambda case: ILVR(image=str(case.target.file), factor=int(case.weight)),
        symbol="factor",
        measures=("low", "image@1", "image@10", "classifier@10", "frechet", "diversity"),
    ),
    _inpainting("inpaint", "inpainting by blending", Inpaint),
    _inpainting("project", "inpainting by projection", Project),
    Method(
        name="switch",
        title="the prompt changed after a fraction of the steps",
        base=PROMPTED,
        wanted=changed,
        effects=(Effect("subject", SAME), Effect("colour", MORE), Effect("moved", LESS, versus_prompt=True)),
        weights=(0.1, 0.2, 0.3, 0.5),
        weight=0.2,
        condition=lambda case: Switch(prompt=case.target.changed, after=case.weight),
        reads=("changed",),
        symbol="after",
        outright="changed",
        measures=EDITED,
    ),
    Method(
        name="mix",
        title="disentangled editing, learned weights, unseen seeds",
        base=PROMPTED,
        wanted=changed,
        effects=(Effect("subject", SAME), Effect("colour", MORE), Effect("moved", LESS, versus_prompt=True)),
        weights=(1.0,),
        weight=1.0,
        condition=lambda case: Mix(prompt=case.target.changed, weights=case.learned),
        reads=("changed", "learned"),
        outright="changed",
        needs=("noised_clip",),
        measures=EDITED,
    ),
)
"""All methods, in the order of the report. Their weights are for the embedded model, 20 steps of DDIM."""
