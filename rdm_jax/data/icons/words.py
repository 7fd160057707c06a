"""Words for evaluation: concepts to draw, words whose icons no training sees, and words that no icon has.

Concepts are among the 500 captions that most design groups have; groups with the caption were counted, so that many
variants of one drawing count once. Concrete words name things that have a shape; abstract ones name actions, states
and ideas, which are drawn by convention.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(","))


CONCRETE_CONCEPTS: tuple[str, ...] = _words(
    """
    calendar, camera, bookmark, star, cloud, house, key, phone, lock, bell, keyboard, clock, globe, book, sun,
    bug, moon, trophy, clipboard, microphone, compass, briefcase, laptop, gift, map, rocket, wallet,
    calculator, umbrella, printer, ticket, pencil, mouse, hourglass, shopping cart, crown, car, anchor, bus,
    fire, apple, headphones, building, skull, magnet, thermometer, train, glasses, scissors, truck
    """
)
"""Fifty things that hundreds of styles draw."""

ABSTRACT_CONCEPTS: tuple[str, ...] = _words(
    """
    link, filter, search, share, download, upload, arrow right, arrow left, arrow up, play, pause, stop, plus,
    minus, check, close, code, refresh, archive, info, crop, zoom in, zoom out, menu, save, shuffle, list,
    power, align left, align center, forward, edit, layers, settings, undo, redo, send, expand, target, move,
    repeat, history, warning, sort, logout, login, delete, bluetooth, wifi, bold
    """
)
"""Fifty actions, states and ideas that hundreds of styles draw."""

CONCEPTS: tuple[str, ...] = CONCRETE_CONCEPTS + ABSTRACT_CONCEPTS
"""Concepts on which models are compared; their icons are in training."""

CONCRETE_UNSEEN: tuple[str, ...] = _words(
    """
    tornado, sailboat, helicopter, bicycle, elephant, butterfly, cactus, castle, guitar, violin, piano,
    trumpet, drum, saxophone, pizza, hamburger, carrot, banana, strawberry, watermelon, avocado, lemon, pear,
    mushroom, cheese, bread, egg, popcorn, candle, lamp, broom, axe, sword, shovel, screwdriver, ladder,
    bucket, toothbrush, bathtub, toilet, sofa, chair, mirror, fridge, microwave, teapot, spoon, knife, tent,
    backpack, suitcase, binoculars, satellite, ufo, alien, snowman, volcano, lighthouse, windmill, bridge,
    church, mosque, factory, tractor, motorcycle, scooter, parachute, balloon, kite, dice, volleyball,
    baseball, skateboard, dumbbell, medal, dress, necktie, sunglasses, lipstick, penguin, owl, dolphin, whale,
    shark, octopus, crab, snail, spider, snake, turtle, rabbit, cow, pig, panda, bee, dragon, syringe, tooth,
    feather, rose
    """
)
"""A hundred things that no training sees."""

ABSTRACT_UNSEEN: tuple[str, ...] = _words(
    """
    infinity, recycle, accessibility, paragraph, superscript, subscript, strikethrough, translate, percent,
    divide, hashtag, asterisk, ampersand, rewind, export, import, fullscreen, maximize, minimize, unlink,
    duplicate, merge, split, reload, signature, fingerprint, voicemail, podcast, brightness, contrast,
    aperture, crosshair, radar, pulse, biohazard, radioactive, copyright, registered, trademark, yen, rupee,
    bitcoin, invoice, coupon, discount, checklist, kanban, flowchart, sitemap, timeline, hierarchy, analytics,
    gauge, equalizer, playlist, loop, backspace, incognito, password, webhook, api, variable, function,
    braces, brackets, regex, debug, binary, pipeline, workflow, gradient, opacity, blur, exposure, panorama,
    lasso, eyedropper, transform, resize, ungroup, perspective, indent, spellcheck, markdown, replay,
    broadcast, ethernet, nfc, gps, vibrate, thunderstorm, fog, haze, humidity, sunrise, sunset, female, peace,
    gemini, libra
    """
)
"""A hundred actions, states and ideas that no training sees."""

UNSEEN_WORDS: tuple[str, ...] = CONCRETE_UNSEEN + ABSTRACT_UNSEEN
"""Words whose icons are in no training, but in content databases."""

FOREIGN_WORDS: tuple[str, ...] = _words(
    """
    physician, surgeon, lawyer, attorney, butcher, tailor, librarian, journalist, novelist, poet, sculptor,
    landlord, citizen, senator, governor, mayor, ambassador, immigrant, refugee, widow, uncle, nephew, niece,
    cousin, grandson, ancestor, marriage, divorce, democracy, loneliness, jealousy, courage, honesty, pride,
    shame, guilt, regret, envy, greed, hatred, grief, sorrow, boredom, laziness, stubbornness, thirst,
    nostalgia, nightmare, childhood, adulthood, burial, obituary, wilderness, meadow, marsh, gorge, lagoon,
    peninsula, famine, mansion, monastery, convent, suburb, ghetto, slum, orchard, vineyard, pasture,
    barnyard, quarry, weasel, ferret, antelope, lamb, calf, piglet, nightingale, herring, moth, grasshopper,
    flea, leech, spinach, parsley, celery, lettuce, zucchini, blueberry, fig, raisin, walnut, hazelnut,
    oatmeal, porridge, gravy, mustard, vinegar, omelette, pudding, lasagna, casserole, napkin, brooch, velvet,
    corduroy, denim, pillowcase, footstool, doorknob, banister, steamship, tricycle, thimble, crochet,
    farming, weaving, betrayal, forgiveness, revenge, mercy, violence, bribery, corruption, smuggling,
    burglary, kidnapping, treason, espionage, philosophy, sociology, anthropology, archaeology, theology,
    algebra, calculus, rhetoric, folklore, mythology, monarchy, constitution, treaty, verdict, lawsuit,
    bankruptcy, inflation, recession, unemployment, toothache, sneeze, arthritis, bruise, wrinkle, dimple,
    freckle, eyelash, nostril, ankle, shin, knuckle, waltz, tango, rehearsal, prairie, tundra, equator,
    gossip, rumor, riddle, proverb, sarcasm, joke, flattery, insult, apology, promise, whisper, scream,
    hiccup, peasant, outlaw, prophet, sinner, hopscotch, windowsill, bookworm, heirloom, errand, banquet,
    feast, teenager, veteran, apprentice, rookie, amateur, genius, coward, hero, villain, rival, enemy
    """
)
"""Common words that are in no caption."""

_UNSEEN = frozenset(UNSEEN_WORDS)


def is_unseen(caption: str) -> bool:
    """Returns whether an unseen word is among the words of a caption, as in "sunrise alert"."""
    return not _UNSEEN.isdisjoint(caption.split())
