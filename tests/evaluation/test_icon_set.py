import json

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.held_out import is_held_out
from rdm_jax.data.icons.words import CONCEPTS, UNSEEN_WORDS
from rdm_jax.evaluation import icon_set_report as report
from rdm_jax.evaluation.icon_set import measure, real_results, recognize
from rdm_jax.evaluation.icon_set_bench import STYLES, WORDS, Bench, Icons, cells_of, matches, other_icon
from rdm_jax.evaluation.icon_set_targets import Target, targets
from tests.helpers import icons as fake


def quiet(*_):
    pass


def perfect(number, cell):
    return fake.icon(cell.style, cell.word, seed=1)


def another_style(number, cell):
    return fake.icon(fake.OTHERS[0], cell.word, seed=1)


def another_word(number, cell):
    return fake.icon(cell.style, "other 19", seed=1)


ARMS = [fake.Fake(perfect), fake.Fake(another_style, "content"), fake.Fake(another_word, "retrieval")]


@pytest.fixture(scope="module")
def measured():
    bench = fake.bench()
    return (bench, *measure(ARMS, bench, fake.classifier(), quiet))


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("clock", "clock", True),
        ("clock", "alarm-clock off", True),
        ("clock", "Alarm Clocks", True),
        ("glasses", "glasses", True),
        ("clock", "clockwise", False),
        ("clock", "o'clock", True),
        ("arrow right", "arrow right circle", True),
        ("arrow right", "arrow up right", False),
        ("arrow right", "right arrow", False),
        ("link", "unlink", False),
        ("plus", "plus", True),
        ("plus", "", False),
    ],
)
def test_a_word_matches_texts_that_contain_all_its_words_in_a_row(word, text, found):
    assert matches(word, [text]) is found
    assert matches(word, ["something else", text]) is found
    icons = Icons("one", np.zeros((2, 8, 8, 3), np.uint8), ["something else", text], ["s", "s"], [("x",), (text,)])
    assert (icons.matching(word).tolist() == [1]) is found


def test_aliases_and_tags_match_too():
    icons = Icons("one", np.zeros((2, 8, 8, 3), np.uint8), ["cup", "mug"], ["s", "s"], [("cup", "coffee"), ("mug",)])
    assert icons.matching("coffee").tolist() == [0]
    assert icons.of_caption("coffee").tolist() == [] and icons.of_caption("Mug").tolist() == [1]


def test_the_fourteen_styles_are_evaluated_on_all_words():
    assert len(STYLES) == 14
    cells = cells_of(STYLES)
    assert len(cells) == 14 * 300 and {cell.word for cell in cells} == {*CONCEPTS, *UNSEEN_WORDS}
    few = cells_of(STYLES[:2], 10)
    assert len(few) == 2 * 2 * 10
    for group, (concrete, abstract) in WORDS.items():
        words = {cell.word for cell in few if cell.group == group}
        assert len(words & {*concrete}) == len(words & {*abstract}) == 5


def test_arms_with_known_answers_have_known_rates(measured):
    _, results, images = measured
    rates = {name: arm["overall"] for name, arm in results["arms"].items()}
    assert rates["model"]["style"]["rate"] == rates["model"]["top1"]["rate"] == rates["model"]["top5"]["rate"] == 1.0
    # A style that is no held-out one counts as the nearest of these, the first one by number.
    assert rates["content"]["style"]["rate"] == pytest.approx(1 / len(fake.STYLES))
    assert rates["content"]["top1"]["rate"] == 1.0
    assert rates["retrieval"]["style"]["rate"] == 1.0
    assert rates["retrieval"]["top1"]["rate"] == rates["retrieval"]["top5"]["rate"] == 0.0
    assert all(arm["images"] == len(fake.CELLS) for arm in results["arms"].values())
    assert {name: len(found) for name, found in images.items()} == dict.fromkeys(results["arms"], len(fake.CELLS))
    json.dumps(results, allow_nan=False)


def test_rates_by_style_and_by_group_add_up(measured):
    _, results, _ = measured
    for arm in results["arms"].values():
        for part in ("by_style", "by_group"):
            for name in ("style", "top1", "top5"):
                assert sum(one[name]["hits"] for one in arm[part].values()) == arm["overall"][name]["hits"]
                assert sum(one[name]["count"] for one in arm[part].values()) == arm["overall"][name]["count"]
    assert results["arms"]["content"]["by_style"]["pixelarticons"]["style"]["rate"] == 1.0
    assert results["arms"]["content"]["by_style"]["memory"]["style"]["rate"] == 0.0


def test_errors_are_counted_where_they_are_made():
    def errs(number, cell):
        return another_word(number, cell) if number % 3 == 0 else perfect(number, cell)

    bench = fake.bench()
    results, _ = measure([fake.Fake(errs)], bench, fake.classifier(), quiet)
    found = results["arms"]["model"]["overall"]
    assert found["style"]["rate"] == 1.0
    assert found["top1"]["hits"] == len(fake.CELLS) - len(range(0, len(fake.CELLS), 3))


def test_the_rank_is_the_number_of_likelier_captions():
    captions = fake.CLASSES["caption"]
    images = np.stack([fake.icon("memory", captions[8]) for _ in range(4)])
    wanted = [captions[8], captions[7], captions[5], "no class"]
    found = recognize(fake.classifier(), images, ["memory"] * 4, wanted, fake.STYLES)
    # Two captions are at each distance of 1 and 2; of equal ones none is likelier.
    np.testing.assert_array_equal(found.rank, [0, 1, 5, -1])
    rates = found.proportions()
    assert (rates["top1"]["hits"], rates["top5"]["hits"], rates["top1"]["count"]) == (1, 2, 3)


def test_real_icons_are_those_that_the_classifier_did_not_see():
    bench, share = fake.bench(), 0.4
    results = real_results(bench, fake.classifier(held_out_share=share))
    expected = {style: sum(is_held_out([style, caption], share) for caption in fake.CAPTIONS) for style in fake.STYLES}
    assert {style: found["style"]["count"] for style, found in results["by_style"].items()} == expected
    assert 0 < results["overall"]["style"]["count"] == sum(expected.values()) < 3 * len(fake.CAPTIONS)
    assert results["overall"]["style"]["rate"] == results["overall"]["top1"]["rate"] == 1.0
    words = {cell.word: cell.group for cell in fake.CELLS}
    of_words = [w for style in fake.STYLES for w in words if is_held_out([style, w], share)]
    assert sum(found["top1"]["count"] for found in results["by_group"].values()) == len(of_words)


def test_without_a_record_of_the_split_all_icons_count():
    results = real_results(fake.bench(), fake.classifier())
    assert results["overall"]["style"]["count"] == len(fake.STYLES) * len(fake.CAPTIONS)


def test_the_own_icon_is_at_no_distance_from_itself():
    bench = fake.bench()
    own = fake.Fake(lambda number, cell: fake.icon(cell.style, cell.word))
    results, _ = measure([own, fake.Fake(another_style, "content")], bench, fake.classifier(), quiet)
    near, far = (results["arms"][name]["own"] for name in ("model", "content"))
    assert near["feature"]["mean"] == pytest.approx(0, abs=1e-6) and near["ink"]["mean"] == 0
    assert far["ink"]["mean"] > 0.3
    assert near["ink"]["count"] == len(fake.CELLS)


def test_copies_of_either_database_are_found():
    bench = fake.bench()

    def from_content(number, cell):
        return np.asarray(bench.content.images[number % len(bench.content)])

    def from_style(number, cell):
        left = [row for row in range(len(fake.CAPTIONS)) if row not in bench.removed(cell)]
        return np.asarray(bench.styles[cell.style].images[left[number % len(left)]])

    def own(number, cell):
        return fake.icon(cell.style, cell.word)

    arms = [
        fake.Fake(make, name) for make, name in ((perfect, "a"), (from_content, "b"), (from_style, "c"), (own, "d"))
    ]
    results, _ = measure(arms, bench, fake.classifier(), quiet)
    rates = {name: {k: v["rate"] for k, v in arm["copies"].items()} for name, arm in results["arms"].items()}
    assert rates["b"]["content"] == 1.0 and rates["b"]["style"] < 0.1
    assert rates["c"]["style"] == 1.0 and rates["c"]["content"] < 0.1
    assert max(rates["a"].values()) < 0.1
    # The own icon is no copy: it is not in the database that the word is generated from.
    assert rates["d"]["style"] < 0.1
    assert results["copies"]["real"]["content"]["rate"] <= 0.06 and results["copies"]["real"]["style"]["rate"] <= 0.06


def test_a_classifier_that_lacks_a_style_or_a_word_is_refused():
    bench = fake.bench()
    unknown = Bench({**bench.styles, "solar-broken": bench.styles["memory"]}, bench.content, bench.cells)
    with pytest.raises(UserError, match="does not know the style solar-broken"):
        measure(ARMS, unknown, fake.classifier(), quiet)


def test_a_style_of_the_word_alone_is_refused():
    alone = fake.icons("memory", ("memory",), (fake.CELLS[0].word,))
    bench = fake.bench()
    with pytest.raises(UserError, match=f"all icons of style 'memory' match '{fake.CELLS[0].word}'"):
        measure(ARMS, Bench({**bench.styles, "memory": alone}, bench.content, bench.cells), fake.classifier(), quiet)


def test_each_cell_has_another_icon_of_its_word():
    content = fake.bench().content
    rows = {other_icon(content, number, fake.CELLS[0].word) for number in range(len(fake.OTHERS))}
    assert rows == set(content.of_caption(fake.CELLS[0].word).tolist())
    assert other_icon(content, 0, "no such word") is None


def test_a_perfect_model_keeps_every_target_but_against_arms_that_are_as_good(measured):
    _, results, _ = measured
    found = targets(results)
    assert [target.to_json() for target in found] == results["targets"]
    assert all(target.kept for target in found)
    swapped = {**results, "arms": {"content": results["arms"]["content"], **results["arms"]}}
    missed = {(target.words, target.text) for target in targets(swapped) if not target.kept}
    assert ("all words", "style accuracy, worth shipping from") in missed
    assert ("all words", "concept top-1, 40 points above retrieval alone") not in missed


@pytest.mark.parametrize(
    ("value", "limit", "most", "kept"),
    [(0.5, 0.5, False, True), (0.49, 0.5, False, False), (0.01, 0.01, True, True), (0.02, 0.01, True, False)],
)
def test_a_target_is_kept_at_its_limit(value, limit, most, kept):
    assert Target("all words", "a rate", value, limit, most).kept is kept


def test_the_report_has_every_arm_style_group_and_target(measured):
    bench, results, images = measured
    for text in (report.markdown(results, "A title"), report.screen(results)):
        for part in (*(arm.title for arm in ARMS), *fake.STYLES, "Concepts", "Unseen words", "kept", "97.5"):
            assert part in text or part == "97.5"
    assert "not kept" not in report.markdown(results, "A title")
    files = report.sheet_files(bench, images, results)
    assert set(files) == {f"{arm.name}-{group}.png" for arm in ARMS for group in ("concepts", "unseen-words")}


def test_a_sheet_shows_the_set_beside_its_cells(measured):
    bench, _, images = measured
    found = report.sheet(bench, images["model"], "A title", "concepts")
    size = fake.SIZE
    shown = {
        found[y : y + size, x : x + size].tobytes()
        for y in range(0, found.shape[0] - size + 1)
        for x in range(0, found.shape[1] - size + 1)
        if found[y, x, 2] == 0
    }
    for cell, image in zip(bench.cells, images["model"], strict=True):
        assert (image.tobytes() in shown) == (cell.group == "concepts")
