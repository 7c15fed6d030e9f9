"""Motion: subjects are within the frame once they have entered, move smoothly, and come and go as their act says."""

import numpy as np
import pytest

from alchemint.toyworld import motion

STAND = motion.Stand(frame_width=64, frame_height=64, fps=6.0, width=20.0, height=26.0, lane=30.0, nearness=0.5,
                     ground=(0.75, 0.95))
KINDS = (*motion._MOTIONS_OF_KIND, "tool")


def acts(kind, frames=(5, 19), stand=STAND, count=60):
    rng = np.random.default_rng(0)
    return [motion.draw_act(rng, frames, 25, kind, stand) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_between_entry_and_exit_the_centre_is_in_the_frame_and_moves_smoothly(kind):
    for act in acts(kind):
        x, y = act.poses.x[4:-4], act.poses.y[4:-4]
        assert len(act.poses.x) == 15
        assert (x > 0).all() and (x < 64).all() and (y > 0).all() and (y < 64).all()
        assert np.abs(np.diff(x)).max() < 0.1 * 64


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_there_from_start_to_end_has_no_entry_and_no_exit(kind):
    for act in acts(kind, frames=(0, 24)):
        assert (act.entry, act.exit) == ("", "")
        assert (act.poses.opacity == 1).all()


def test_edges_are_entered_against_the_heading_and_left_along_it():
    drawn = acts("beast", count=300)
    entering = [act for act in drawn if act.entry == "edge"]
    leaving = [act for act in drawn if act.exit == "edge"]
    assert len(entering) > 50 and len(leaving) > 50
    for act in entering:
        assert (act.poses.x[0] < 10) == (act.heading > 0)
    for act in leaving:
        assert (act.poses.x[-1] > 54) == ((act.heading > 0) != act.returns)


def test_sprites_look_where_they_head_and_turn_when_they_return():
    for act in acts("vehicle"):
        if act.motion == "drive":
            assert np.sign(act.poses.scale_x[3]) == -act.heading
            assert np.sign(act.poses.scale_x[-4]) == (act.heading if act.returns else -act.heading)


def test_feet_stand_on_the_ground_and_everything_floats_without_it():
    for act in acts("beast"):
        poses = act.poses
        feet = (poses.y + poses.lift + STAND.height * poses.scale_y / 2)[4:-4]
        assert np.allclose(feet, 0.85 * 64)
    nowhere = motion.Stand(64, 64, 6.0, 20.0, 26.0, 30.0, 0.5, None)
    assert all(np.isnan(act.poses.lift).all() for kind in KINDS for act in acts(kind, stand=nowhere, count=10))


def test_all_ways_of_coming_and_going_occur():
    drawn = [act for kind in KINDS for act in acts(kind)]
    assert {act.entry for act in drawn} == set(motion.ENTRIES)
    assert {act.exit for act in drawn} == set(motion.EXITS)
