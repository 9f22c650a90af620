"""Places on a machine: what fits beside what, and that nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.launch.slots import Claim, Machine, Place, is_shared, load, place, width

CPU = Claim(cores=1)
GPU = Claim(cores=1, gpus=1)
TENTH = Claim(cores=1, gpus=1, share=0.1)


@pytest.mark.parametrize(
    ("machine", "claim", "expected"),
    [
        pytest.param(Machine(8), CPU, 8, id="a core each"),
        pytest.param(Machine(8), Claim(cores=3), 2, id="three cores each"),
        pytest.param(Machine(2), Claim(cores=8), 1, id="more cores than there are: alone"),
        pytest.param(Machine(2, most=5), CPU, 5, id="told how many"),
        pytest.param(Machine(8, most=1), CPU, 1, id="told one"),
        pytest.param(Machine(2, gpus=4), Claim(cores=4, gpus=1), 4, id="no GPU idles for want of cores"),
        pytest.param(Machine(64, gpus=4), Claim(cores=1, gpus=2), 2, id="two GPUs each"),
        pytest.param(Machine(64, gpus=2), TENTH, 20, id="ten on each GPU"),
        pytest.param(Machine(6, gpus=2), TENTH, 6, id="sharing a GPU needs cores"),
        pytest.param(Machine(2, gpus=2, most=9), TENTH, 9, id="told how many on GPUs"),
        pytest.param(Machine(2, gpus=2, most=9), GPU, 2, id="told more than there are GPUs"),
        pytest.param(Machine(64, gpus=1), Claim(cores=1, gpus=1, share=0.6), 1, id="two would need more than all"),
    ],
)
def test_how_many_go_side_by_side(machine: Machine, claim: Claim, expected: int) -> None:
    assert width([claim] * 100, machine) == expected


def test_gpus_that_nobody_uses_come_first() -> None:
    machine = Machine(64, gpus=3)
    taken: list[Place] = []
    for _ in range(4):
        found = place(TENTH, machine, taken)
        assert found is not None
        taken.append(found)
    assert [held.gpus for held in taken] == [(0,), (1,), (2,), (0,)]


@pytest.mark.parametrize(
    ("claim", "machine", "runs", "expected"),
    [
        pytest.param(GPU, Machine(1, gpus=1), 9, False, id="a GPU alone"),
        pytest.param(TENTH, Machine(64, gpus=1), 1, True, id="a share of one"),
        pytest.param(CPU, Machine(2), 9, False, id="as many as cores"),
        pytest.param(Claim(cores=8), Machine(2), 9, False, id="too large, but alone"),
        pytest.param(CPU, Machine(2, most=4), 9, True, id="more at once than cores"),
        pytest.param(CPU, Machine(2, most=4), 2, False, id="allowed more, but there are only two"),
        pytest.param(CPU, Machine(4, most=2), 9, False, id="fewer at once than cores"),
    ],
)
def test_whose_speed_is_no_measurement(claim: Claim, machine: Machine, runs: int, expected: bool) -> None:
    assert is_shared(claim, machine, runs) is expected


def claims(gpus: int) -> st.SearchStrategy[Claim]:
    cores = st.integers(1, 6)
    kinds = [st.builds(Claim, cores=cores)]
    if gpus:
        kinds += [
            st.builds(Claim, cores=cores, gpus=st.integers(1, gpus)),
            st.builds(Claim, cores=cores, gpus=st.just(1), share=st.sampled_from((0.1, 0.25, 1 / 3, 0.5, 0.7))),
        ]
    return st.one_of(kinds)


@given(st.data(), st.integers(1, 8), st.integers(0, 4), st.none() | st.integers(1, 5))
def test_a_queue_is_served_in_order_and_nothing_is_given_twice(
    data: st.DataObject, cores: int, gpus: int, most: int | None
) -> None:
    """Runs end in any order; the queue is served from its head alone, as a launcher does, and always to its end."""
    machine = Machine(cores, gpus, most)
    waiting = data.draw(st.lists(claims(gpus), max_size=20))
    taken: list[Place] = []
    while waiting or taken:
        while waiting and (found := place(waiting[0], machine, taken)) is not None:
            assert found.claim == waiting.pop(0)
            taken.append(found)
        check(machine, taken)
        assert taken, "somebody waits although the machine is empty"
        taken.pop(data.draw(st.integers(0, len(taken) - 1)))


def check(machine: Machine, taken: list[Place]) -> None:
    for held in taken:
        assert len(set(held.gpus)) == held.claim.gpus
        assert all(0 <= gpu < machine.gpus for gpu in held.gpus)
        alone = [gpu for gpu in held.gpus if held.claim.share == 1]
        assert all(sum(gpu in other.gpus for other in taken) == 1 for gpu in alone), "beside one that is alone"
    assert all(load(gpu, taken) <= 1 + 1e-6 for gpu in range(machine.gpus))
    assert machine.most is None or len(taken) <= machine.most
    if machine.most is None and len(taken) > max(1, machine.gpus):
        assert sum(held.claim.cores for held in taken) <= machine.cores or machine.gpus
