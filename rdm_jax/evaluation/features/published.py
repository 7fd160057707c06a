"""Which converted weights are the published ones: only features of these may have the names of the literature.

`rdm convert` records the SHA-256 of the files that it read, and of the parts that it wrote.
"""

from __future__ import annotations

from rdm_jax.bundle import Bundle
from rdm_jax.convert.converted import MANIFEST
from rdm_jax.core import text

INCEPTION = "Inception-v3 of 2015"
VIT_B_32 = "OpenAI's CLIP ViT-B/32"
VIT_L_14_336 = "OpenAI's CLIP ViT-L/14@336px"
LPIPS_VGG = "LPIPS 0.1 with VGG-16"

FILES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    # pt_inception-2015-12-05-6726825d.pth; torch-fidelity distributes the same file under another name.
    "inception": ((INCEPTION, ("6726825d",)),),
    "clip": (
        (VIT_B_32, ("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",)),
        ("OpenAI's CLIP ViT-B/16", ("5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",)),
        ("OpenAI's CLIP ViT-L/14", ("b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",)),
        (VIT_L_14_336, ("3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",)),
    ),
    # lpips/weights/v0.1/vgg.pth and vgg16-397923af.pth of torchvision.
    "lpips": ((LPIPS_VGG, ("a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", "397923af")),),
}
"""{part: (name, how the SHA-256 of each file that it is converted from begins)}."""


def published_name(bundle: Bundle, part: str) -> str | None:
    """Returns the name of the published weights that a part was converted from, None if it was not.

    Args:
      bundle: as `rdm convert` wrote it; one that was changed since has other hashes, and no name.
      part: of the bundle.
    """
    if bundle.path is None:
        return None
    try:
        manifest = text.read_json(bundle.path / MANIFEST)
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sources"), dict):
        return None
    if (manifest.get("parts") or {}).get(part) != bundle.hashes.get(part):
        return None
    hashes = [str(value) for value in manifest["sources"].values()]
    for name, starts in FILES.get(part, ()):
        if all(any(value.startswith(start) for value in hashes) for start in starts):
            return name
    return None
