"""The guidance methods and conditioners that are measured, as a table: how each is made, and what is expected of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from rdm_jax.conditioning import Conditioner, Mix, Switch
from rdm_jax.evaluation.gallery import Target, hand_of, told
from rdm_jax.guidance import ILVR, SDG, ClassifierGuidance, CLIPGuidance, GuidanceMethod, Inpaint, Project

FREE, PROMPTED, OWN = "free", "prompted", "own"
Labels = Callable[[Target], Mapping[str, str]]
MORE, LESS, SAME, NONE = "more", "less", "same", "none"


@dataclasses.dataclass(frozen=True)
class Promise:
    """What a method promises of a figure: MORE or LESS of it, the SAME, or NONE.

    Attributes:
      figure: its name.
      direction: what is promised.
      of_words: against the run whose prompt asks for the same in words, and not the run without the method.
    """

    figure: str
    direction: str
    of_words: bool = False


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
    """A guide or a conditioner that is measured.

    Attributes:
      name: its key in the results.
      title: what a table says of it.
      base: what is bent: FREE runs under no condition, those of the target's PROMPT, or of the reference's OWN caption.
      wanted: what the judge should name.
      promises: what should come of it.
      weights: what is tried of `symbol`, the less and the more.
      weight: the one of the tables.
      guide: makes the guide; None for a conditioner.
      condition: makes the conditioner; None for a guide.
      reads: what the two read of a case beside the reference: "hand", "changed", "mask" or "learned".
      symbol: the name of what `weights` are.
      outright: which words ask for the same in the prompt, drawn beside it: "hand", "changed", or "" for none.
      needs: parts of the model.
      figures: the columns of its table.
    """

    name: str
    title: str
    base: str
    wanted: Labels
    promises: tuple[Promise, ...]
    weights: tuple[float, ...]
    weight: float
    guide: Callable[[Case], GuidanceMethod] | None = None
    condition: Callable[[Case], Conditioner] | None = None
    reads: tuple[str, ...] = ()
    symbol: str = "weight"
    outright: str = ""
    needs: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()

    def options(self, case: Case) -> dict[str, Sequence[GuidanceMethod | Conditioner]]:
        """Returns the options of `Generator.plan` for a case."""
        return {
            "guides": [self.guide(case)] if self.guide else [],
            "conditions": [self.condition(case)] if self.condition else [],
        }

    def lacks(self, parts: Callable[[str], bool], targets: list[Target]) -> str:
        """Returns what this cannot be measured without, "" if all is there."""
        missing = [part for part in self.needs if not parts(part)]
        if missing:
            return f"the model has no {missing[0]}"
        hand = hand_of(list(targets[0].labels))
        if "hand" in self.reads and not all(target.hand for target in targets):
            return "no caption names a style"
        if "changed" in self.reads and not all(target.changed for target in targets):
            return "no caption names what the judge knows"
        if any(promise.figure == "style" for promise in self.promises) and not hand:
            return "the judge and the pictures share no style"
        return ""


def of_caption(target: Target) -> Mapping[str, str]:
    """Returns what the reference's caption names."""
    return told(target.caption, target.labels)


def of_reference(target: Target) -> Mapping[str, str]:
    """Returns all that the reference is."""
    return target.labels


def of_prompt(target: Target) -> Mapping[str, str]:
    """Returns what the prompt names."""
    return told(target.prompt, target.prompt_labels)


def prompt_in_hand(target: Target) -> Mapping[str, str]:
    """Returns what the prompt names, in the hand that is asked for in words."""
    return {**of_prompt(target), hand_of(list(target.labels)): target.hand}


def prompt_like_reference(target: Target) -> Mapping[str, str]:
    """Returns what the prompt names, in the reference's hand."""
    hand = hand_of(list(target.labels))
    return {**of_prompt(target), **({hand: target.labels[hand]} if hand else {})}


def changed(target: Target) -> Mapping[str, str]:
    """Returns what the changed prompt names."""
    return told(target.changed, target.changed_labels)


def words(target: Target) -> str:
    """Returns the prompt with the hand asked for in words."""
    return f"{target.prompt}, {target.hand}"


TEXT, CONTENT, STRUCTURE, STYLE, HAND, CLIP, CLASS = 300.0, 300.0, 100.0, 100.0, 300.0, 300.0, 30.0

SPOKEN = Promise("subject", MORE), Promise("colour", MORE), Promise("caption@10", MORE)
KEPT = Promise("subject", SAME), Promise("colour", SAME)
LIKE_CAPTION = "subject", "colour", "caption@1", "caption@10", "frechet", "diversity"
IN_HAND = "style", "subject", "colour", "frechet", "diversity"
EDITED = "subject", "colour", "moved", "moved_pixels", "frechet"


def _inpainting(name: str, title: str, cls: type[Inpaint] | type[Project]) -> Method:
    return Method(
        name=name,
        title=title,
        base=OWN,
        wanted=of_caption,
        promises=(Promise("known", NONE), Promise("seam", LESS)),
        weights=(1.0,),
        weight=1.0,
        guide=lambda case: cls(image=str(case.target.file), mask=case.mask),
        reads=("mask",),
        figures=("known", "seam", "subject", "colour", "frechet"),
    )


METHODS: tuple[Method, ...] = (
    Method(
        name="language",
        title="SDG, text",
        base=FREE,
        wanted=of_caption,
        promises=SPOKEN,
        weights=(TEXT / 10, TEXT / 3, TEXT, 3 * TEXT),
        weight=TEXT,
        guide=lambda case: SDG(text=case.target.caption, weight=case.weight),
        needs=("noised_clip",),
        figures=LIKE_CAPTION,
    ),
    Method(
        name="content",
        title="SDG, content of a picture",
        base=FREE,
        wanted=of_reference,
        promises=(Promise("picture@10", MORE), Promise("judged@10", MORE)),
        weights=(CONTENT / 10, CONTENT / 3, CONTENT, 3 * CONTENT),
        weight=CONTENT,
        guide=lambda case: SDG(content=str(case.target.file), weight=case.weight),
        needs=("noised_clip",),
        figures=("subject", "colour", "picture@1", "picture@10", "judged@10", "frechet", "diversity"),
    ),
    Method(
        name="structure",
        title="SDG, structure of a picture",
        base=FREE,
        wanted=of_reference,
        promises=(Promise("layout", MORE),),
        weights=(STRUCTURE / 3, STRUCTURE, 3 * STRUCTURE),
        weight=STRUCTURE,
        guide=lambda case: SDG(structure=str(case.target.file), weight=case.weight),
        needs=("noised_clip",),
        figures=("layout", "low", "subject", "frechet", "diversity"),
    ),
    Method(
        name="style",
        title="SDG, style of a picture",
        base=PROMPTED,
        wanted=prompt_like_reference,
        promises=(Promise("gram", LESS), Promise("style", MORE), *KEPT),
        weights=(STYLE / 10, STYLE / 3, STYLE, 3 * STYLE),
        weight=STYLE,
        guide=lambda case: SDG(style=str(case.target.file), weight=case.weight),
        needs=("noised_clip",),
        figures=("gram", "style", "subject", "colour", "frechet"),
    ),
    Method(
        name="hand",
        title="SDG, a style by its name",
        base=PROMPTED,
        wanted=prompt_in_hand,
        promises=(Promise("style", MORE), *KEPT),
        weights=(HAND / 3, HAND, 3 * HAND),
        weight=HAND,
        guide=lambda case: SDG(text=case.target.hand, weight=case.weight),
        reads=("hand",),
        outright="hand",
        needs=("noised_clip",),
        figures=IN_HAND,
    ),
    Method(
        name="clip-language",
        title="CLIP on the clean estimate, text",
        base=FREE,
        wanted=of_caption,
        promises=SPOKEN,
        weights=(2 * CLIP,),
        weight=2 * CLIP,
        guide=lambda case: CLIPGuidance(text=case.target.caption, weight=case.weight),
        figures=LIKE_CAPTION,
    ),
    Method(
        name="clip",
        title="CLIP on the clean estimate, a style by its name",
        base=PROMPTED,
        wanted=prompt_in_hand,
        promises=(Promise("style", MORE), *KEPT),
        weights=(CLIP,),
        weight=CLIP,
        guide=lambda case: CLIPGuidance(text=case.target.hand, weight=case.weight, cutouts=4),
        reads=("hand",),
        figures=IN_HAND,
    ),
    Method(
        name="classifier",
        title="classifier of noisy latents",
        base=PROMPTED,
        wanted=prompt_in_hand,
        promises=(Promise("style", MORE), *KEPT),
        weights=(CLASS / 3, CLASS, 3 * CLASS),
        weight=CLASS,
        guide=lambda case: ClassifierGuidance(
            attribute=hand_of(list(case.target.labels)), label=case.target.hand, weight=case.weight
        ),
        reads=("hand",),
        needs=("noised_classifier",),
        figures=IN_HAND,
    ),
    Method(
        name="ilvr",
        title="ILVR",
        base=FREE,
        wanted=of_reference,
        promises=(Promise("low", LESS),),
        weights=(8.0, 4.0, 2.0),
        weight=4.0,
        guide=lambda case: ILVR(image=str(case.target.file), factor=int(case.weight)),
        symbol="factor",
        figures=("low", "picture@1", "picture@10", "judged@10", "frechet", "diversity"),
    ),
    _inpainting("inpaint", "inpainting by blending", Inpaint),
    _inpainting("project", "inpainting by projection", Project),
    Method(
        name="switch",
        title="the prompt changed after a share of the steps",
        base=PROMPTED,
        wanted=changed,
        promises=(Promise("subject", SAME), Promise("colour", MORE), Promise("moved", LESS, of_words=True)),
        weights=(0.1, 0.2, 0.3, 0.5),
        weight=0.2,
        condition=lambda case: Switch(prompt=case.target.changed, after=case.weight),
        reads=("changed",),
        symbol="after",
        outright="changed",
        figures=EDITED,
    ),
    Method(
        name="mix",
        title="disentangled editing, learned weights, unseen seeds",
        base=PROMPTED,
        wanted=changed,
        promises=(Promise("subject", SAME), Promise("colour", MORE), Promise("moved", LESS, of_words=True)),
        weights=(1.0,),
        weight=1.0,
        condition=lambda case: Mix(prompt=case.target.changed, weights=case.learned),
        reads=("changed", "learned"),
        outright="changed",
        needs=("noised_clip",),
        figures=EDITED,
    ),
)
"""All methods, in the order of the report. Their weights are for the embedded model, 20 steps of DDIM."""
